// Pictures on their way into the network: augmentation in one pass, and conv1's input rearranged in one pass.
#include <vector>

#include "vectors.h"

struct Augment {
    int64_t count, channels, stored, size, noisy, threads;
    float noise, scale;
};

// uint8 (n, S, S, C) -> float32 (n, size, size, C): the window at `offsets` (y, x), mirrored where `mirror`, minus the
// mean (size, size, C), plus the picture's shift of the channel and divided by `noise` if noisy, divided by the scale.
extern "C" void augment(const Augment* a, const uint8_t* pictures, const int64_t* offsets, const uint8_t* mirror,
                        const float* mean, const float* shifts, float* out) {
    const int64_t side = a->size, channels = a->channels, length = side * channels;
#pragma omp parallel num_threads(a->threads) if (a->threads > 1)
    {
        std::vector<uint8_t> reversed(length);
        std::vector<float> shift(length);
#pragma omp for schedule(static)
        for (int64_t n = 0; n < a->count; n++) {
            for (int64_t i = 0; i < length; i++) shift[i] = shifts[n * channels + i % channels];
            for (int64_t y = 0; y < side; y++) {
                const int64_t row = (n * a->stored + y + offsets[2 * n]) * a->stored + offsets[2 * n + 1];
                const uint8_t* from = pictures + row * channels;
                if (mirror[n]) {
                    for (int64_t x = 0; x < side; x++)
                        for (int64_t c = 0; c < channels; c++)
                            reversed[x * channels + c] = from[(side - 1 - x) * channels + c];
                    from = reversed.data();
                }
                const float *minus = mean + y * length, *plus = shift.data();
                float* to = out + (n * side + y) * length;
                if (a->noisy)
                    for (int64_t i = 0; i < length; i++)
                        to[i] = (float(from[i]) - minus[i] + plus[i]) / a->noise / a->scale;
                else
                    for (int64_t i = 0; i < length; i++) to[i] = (float(from[i]) - minus[i]) / a->scale;
            }
        }
    }
}

struct Blocks {
    int64_t count, channels, height, width, pad, stride, out_height, out_width, bfloat16, threads;
};

// (n, H, W, C) -> bfloat16 (n, out_height, out_width, stride · stride · C): each block of stride × stride pixels
// becomes one pixel with as many times the channels; zeros lie outside the picture.
extern "C" void space_to_depth(const Blocks* b, const void* from, uint16_t* to) {
    const int64_t s = b->stride, run = s * b->channels, end = b->width * b->channels;
    const uint16_t* narrow = (const uint16_t*)from;
    const float* wide = (const float*)from;
#pragma omp parallel for schedule(static) num_threads(b->threads) if (b->threads > 1)
    for (int64_t line = 0; line < b->count * b->out_height; line++)
        for (int64_t dy = 0; dy < s; dy++) {
            const int64_t y = line % b->out_height * s + dy - b->pad;
            const int64_t row = (line / b->out_height * b->height + y) * end;
            for (int64_t ox = 0; ox < b->out_width; ox++) {
                const int64_t first = (ox * s - b->pad) * b->channels;
                uint16_t* target = to + ((line * b->out_width + ox) * s + dy) * run;
                const int64_t low = first < 0 ? -first : 0, high = end - first < run ? end - first : run;
                if (y < 0 || y >= b->height || low > 0 || high < run) memset(target, 0, sizeof(uint16_t) * run);
                if (y < 0 || y >= b->height) continue;
                for (int64_t i = low; i < high; i++)
                    target[i] = b->bfloat16 ? narrow[row + first + i] : to_bfloat16(wide[row + first + i]);
            }
        }
}
