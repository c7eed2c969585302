// Fully connected layers for few pictures, where to read the weights is most of the work: they are read as they lie,
// once for 64 pictures. Every sum is made of the same partial sums in the same order, whatever the other pictures,
// their number and the threads are: what a layer makes of a picture does not depend on its company, to the bit.
#include <algorithm>
#include <vector>

#include "vectors.h"

struct Products {
    int64_t pictures, groups, inputs, outputs;  // inputs and outputs of one group
    int64_t far, apart;                         // from a picture's inputs to the next picture's, to the next group's
    int64_t threads;
};

constexpr int64_t OUTPUTS = 3, PICTURES = 4;  // whose sums stand in registers at once
constexpr int64_t CHUNK = 4 * OUTPUTS;        // outputs that a thread takes at a time
constexpr int64_t SPAN = 64 * WIDTH;          // inputs: a chunk's weights for them stay in the nearest cache
constexpr int64_t MOST = 64;                  // pictures for which a weight is read once

// sums (outputs, line) += w (outputs, inputs) · x (pictures, far) over `span` inputs, lane by lane; beyond the last
// input lie zeros.
template <int64_t outputs, int64_t pictures>
static inline void add(const float* w, int64_t inputs, const float* x, int64_t far, int64_t span, Floats* sums,
                       int64_t line) {
    Floats sum[outputs][pictures] = {}, weights[outputs];
    const auto step = [&](int64_t at, auto read) {
        for (int64_t o = 0; o < outputs; o++) weights[o] = read(w + o * inputs + at);
        for (int64_t p = 0; p < pictures; p++) {
            const Floats values = read(x + p * far + at);
            for (int64_t o = 0; o < outputs; o++) sum[o][p] = fused(weights[o], values, sum[o][p]);
        }
    };
    int64_t at = 0;
    for (; at + WIDTH <= span; at += WIDTH) step(at, [](const float* from) { return load(from); });
    if (at < span)
        step(at, [&](const float* from) {
            Floats some = {};
            memcpy(&some, from, sizeof(float) * (span - at));
            return some;
        });
    for (int64_t o = 0; o < outputs; o++)
        for (int64_t p = 0; p < pictures; p++) sums[o * line + p] += sum[o][p];
}

template <int64_t outputs>
static inline void add_all(const float* w, int64_t inputs, const float* x, int64_t far, int64_t span, Floats* sums,
                           int64_t pictures) {
    int64_t p = 0;
    for (; p + PICTURES <= pictures; p += PICTURES)
        add<outputs, PICTURES>(w, inputs, x + p * far, far, span, sums + p, pictures);
    for (; p + 2 <= pictures; p += 2) add<outputs, 2>(w, inputs, x + p * far, far, span, sums + p, pictures);
    if (p < pictures) add<outputs, 1>(w, inputs, x + p * far, far, span, sums + p, pictures);
}

static inline float total(Floats sum) {
    for (int64_t half = WIDTH / 2; half; half /= 2)
        for (int64_t i = 0; i < half; i++) sum[i] += sum[i + half];
    return sum[0];
}

// x float32, the inputs of a picture's group where `far` and `apart` say; w (groups · outputs, inputs); bias
// (groups · outputs) or none -> y (pictures, groups · outputs). Group g of the outputs sees group g of the inputs.
extern "C" void products(const Products* given, const float* x, const float* w, const float* bias, float* y) {
    const Products a = *given;
    const int64_t chunks = (a.outputs + CHUNK - 1) / CHUNK, wide = a.groups * a.outputs;
    for (int64_t first = 0; first < a.pictures; first += MOST) {
        const int64_t pictures = a.pictures - first < MOST ? a.pictures - first : MOST;
#pragma omp parallel num_threads(a.threads) if (a.threads > 1)
        {
            std::vector<Floats> sums(CHUNK * pictures);
#pragma omp for schedule(static)
            for (int64_t chunk = 0; chunk < a.groups * chunks; chunk++) {
                const int64_t group = chunk / chunks, begin = group * a.outputs + chunk % chunks * CHUNK;
                const int64_t rest = (group + 1) * a.outputs - begin, outputs = rest < CHUNK ? rest : CHUNK;
                std::fill(sums.begin(), sums.end(), Floats{});
                for (int64_t i = 0; i < a.inputs; i += SPAN) {
                    const int64_t span = a.inputs - i < SPAN ? a.inputs - i : SPAN;
                    const float* from = x + first * a.far + group * a.apart + i;
                    int64_t o = 0;
                    for (; o + OUTPUTS <= outputs; o += OUTPUTS)
                        add_all<OUTPUTS>(w + (begin + o) * a.inputs + i, a.inputs, from, a.far, span, &sums[o * pictures],
                                         pictures);
                    for (; o < outputs; o++)
                        add_all<1>(w + (begin + o) * a.inputs + i, a.inputs, from, a.far, span, &sums[o * pictures],
                                   pictures);
                }
                for (int64_t o = 0; o < outputs; o++)
                    for (int64_t p = 0; p < pictures; p++)
                        y[(first + p) * wide + begin + o] =
                            total(sums[o * pictures + p]) + (bias ? bias[begin + o] : 0.0f);
            }
        }
    }
}
