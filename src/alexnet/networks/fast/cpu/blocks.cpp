// What stands between two convolutions in one pass over memory, channels last: ReLU, normalisation over maps,
// normalisation within a map, max pooling, ReLU, normalisation over maps; each may be left out.
// A picture's tower is small enough for a core's cache, so everything between reading x and writing y stays there.
// Towers are independent and each is computed by one thread in a fixed order: results do not depend on threads.
#include <vector>

#include "vectors.h"

struct MapsNorm {  // x (k + scale Σ x²)^-0.75 over 2 half + 1 maps; half < 0: none
    int64_t half;
    float scale, k;
};

struct Block {
    int64_t pictures, height, width, channels, towers;
    int64_t relu_before;
    MapsNorm norm_before;
    int64_t within_half;  // < 0: none
    float within_scale;
    int64_t kernel, stride, out_height, out_width;  // kernel 0: no pooling
    int64_t relu_after;
    MapsNorm norm_after;
    int64_t bfloat16, threads;
};

constexpr int32_t NOWHERE = 255;  // the index of a maximum that the ReLU after pooling cut off

static inline Floats relu(Floats x) { return x < 0 ? Floats{} : x; }  // NaN stays NaN

// Σ over 2 half + 1 neighbours of a row that has `half` zeros before and after it.
static inline Floats window(const float* row, int64_t half) {
    if (half == 2)  // every 2012 net's: unrolled
        return load(row - 2) + load(row - 1) + load(row) + load(row + 1) + load(row + 2);
    Floats sum = load(row - half);
    for (int64_t o = 1 - half; o <= half; o++) sum += load(row + o);
    return sum;
}

// Room for some pixels' maps with GAP zeros before, between and after them: a window that leaves its pixel adds zeros.
// A line of pixels at a time, because a sum that reads what has just been written has to wait for it.
constexpr int64_t GAP = 16;

static inline int64_t line_room(int64_t pixels, int64_t maps) { return pixels * (maps + GAP) + GAP; }

static inline void squares_to(const float* x, float* line, int64_t pixels, int64_t maps) {
    for (int64_t p = 0; p < pixels; p++)
        for (int64_t c = 0; c < maps; c += WIDTH) {
            Floats v = load(x + p * maps + c);
            store(line + p * (maps + GAP) + GAP + c, v * v);
        }
}

// Some pixels' maps, from x to y, which may be the same.
static inline void normalise(const float* x, float* y, int64_t pixels, int64_t maps, MapsNorm norm, float* line) {
    squares_to(x, line, pixels, maps);
    for (int64_t p = 0; p < pixels; p++)
        for (int64_t c = 0; c < maps; c += WIDTH) {
            const Floats d = norm.k + norm.scale * window(line + p * (maps + GAP) + GAP + c, norm.half);
            store(y + p * maps + c, minus_three_quarters(d).times(load(x + p * maps + c)));
        }
}

// The gradient of `normalise`: g with respect to y becomes that with respect to x, in place.
static inline void normalise_back(const float* x, float* g, int64_t pixels, int64_t maps, MapsNorm norm, float* line,
                                  float* spread) {
    squares_to(x, line, pixels, maps);
    for (int64_t p = 0; p < pixels; p++)
        for (int64_t c = 0; c < maps; c += WIDTH) {
            const int64_t here = p * maps + c, there = p * (maps + GAP) + GAP + c;
            const Power power = minus_three_quarters(norm.k + norm.scale * window(line + there, norm.half));
            const Floats straight = power.times(load(g + here));
            store(g + here, straight);
            store(spread + there, straight * load(x + here) * power.inverse);
        }
    for (int64_t p = 0; p < pixels; p++)
        for (int64_t c = 0; c < maps; c += WIDTH) {
            const int64_t here = p * maps + c, there = p * (maps + GAP) + GAP + c;
            Floats sum = window(spread + there, norm.half);
            store(g + here, load(g + here) - (1.5f * norm.scale) * load(x + here) * sum);
        }
}

// Sum of `count` values that are `step` apart, of their squares if `squares`.
template <bool squares>
static inline Floats add_up(const float* from, int64_t count, int64_t step) {
    const auto at = [&](int64_t i) {
        Floats v = load(from + i * step);
        return squares ? v * v : v;
    };
    if (count == 5) return at(0) + at(1) + at(2) + at(3) + at(4);
    Floats sum = at(0);
    for (int64_t i = 1; i < count; i++) sum += at(i);
    return sum;
}

// Normalisation within a map takes a slice of the maps at a time, so that its sums stay in the nearest cache.
constexpr int64_t SLICE = 32;

// Sums over (2 half + 1)² positions of `maps` maps, clipped at the border; of the squares if `squares`. A pixel of x
// has `pixel` values, one of `columns` and `sums` SLICE.
template <bool squares>
static void box(const float* x, int64_t pixel, int64_t maps, float* columns, float* sums, const Block& b) {
    const int64_t half = b.within_half, line = b.width * SLICE;
    for (int64_t y = 0; y < b.height; y++)
        for (int64_t at = 0; at < b.width; at++) {
            const int64_t first = at < half ? 0 : at - half, last = at + half < b.width ? at + half : b.width - 1;
            const float* from = x + (y * b.width + first) * pixel;
            for (int64_t c = 0; c < maps; c += WIDTH)
                store(columns + y * line + at * SLICE + c, add_up<squares>(from + c, last - first + 1, pixel));
        }
    for (int64_t y = 0; y < b.height; y++) {
        const int64_t first = y < half ? 0 : y - half, last = y + half < b.height ? y + half : b.height - 1;
        for (int64_t c = 0; c < line; c += WIDTH)
            store(sums + y * line + c, add_up<false>(columns + first * line + c, last - first + 1, line));
    }
}

static void within(float* x, int64_t maps, float* columns, float* sums, const Block& b) {
    for (int64_t first = 0; first < maps; first += SLICE) {
        const int64_t count = maps - first < SLICE ? maps - first : SLICE;
        box<true>(x + first, maps, count, columns, sums, b);
        for (int64_t p = 0; p < b.height * b.width; p++)
            for (int64_t c = 0; c < count; c += WIDTH) {
                float* here = x + p * maps + first + c;
                const Power power = minus_three_quarters(1.0f + b.within_scale * load(sums + p * SLICE + c));
                store(here, power.times(load(here)));
            }
    }
}

static void within_back(const float* x, float* g, int64_t maps, float* columns, float* sums, float* spread,
                        const Block& b) {
    for (int64_t first = 0; first < maps; first += SLICE) {
        const int64_t count = maps - first < SLICE ? maps - first : SLICE, size = b.height * b.width;
        box<true>(x + first, maps, count, columns, sums, b);
        for (int64_t p = 0; p < size; p++)
            for (int64_t c = 0; c < count; c += WIDTH) {
                const int64_t here = p * maps + first + c, there = p * SLICE + c;
                const Power power = minus_three_quarters(1.0f + b.within_scale * load(sums + there));
                const Floats straight = power.times(load(g + here));
                store(g + here, straight);
                store(spread + there, straight * load(x + here) * power.inverse);
            }
        box<false>(spread, SLICE, count, columns, sums, b);
        for (int64_t p = 0; p < size; p++)
            for (int64_t c = 0; c < count; c += WIDTH) {
                const int64_t here = p * maps + first + c;
                const Floats sum = load(sums + p * SLICE + c);
                store(g + here, load(g + here) - (1.5f * b.within_scale) * load(x + here) * sum);
            }
    }
}

// The maximum of a window and where it is, the first in reading order as in torch; a NaN wins.
[[gnu::always_inline]] static inline Floats maximum(const float* corner, int64_t down, int64_t right, int64_t kernel,
                                                    int64_t rows, int64_t columns, Ints* place) {
    Floats best = load(corner);
    Ints where = {};
    for (int64_t ky = 0; ky < rows; ky++)
        for (int64_t kx = 0; kx < columns; kx++) {
            Floats v = load(corner + ky * down + kx * right);
            Ints better = (v > best) | (v != v);
            best = better ? v : best;
            where = better ? Ints{} + int32_t(ky * kernel + kx) : where;
        }
    *place = where;
    return best;
}

[[gnu::always_inline]] static inline void give(float* corner, int64_t down, int64_t right, int64_t kernel, int64_t rows,
                                               int64_t columns, Ints place, Floats gradient) {
    for (int64_t ky = 0; ky < rows; ky++)
        for (int64_t kx = 0; kx < columns; kx++) {
            float* to = corner + ky * down + kx * right;
            store(to, load(to) + (place == int32_t(ky * kernel + kx) ? gradient : Floats{}));
        }
}

struct Room {  // a thread's own, kept from call to call
    std::vector<float> floats;
    float* at(int64_t& offset, int64_t count) {
        const int64_t padded = (count + 31) / 16 * 16;
        float* here = floats.data() + offset;
        offset += padded;
        return here;
    }
};

static thread_local Room room;

static inline int64_t left(int64_t size, int64_t from, int64_t kernel) {
    return size - from < kernel ? size - from : kernel;
}

template <typename T>
struct Tower {  // one tower of one picture
    const Block& b;
    int64_t maps, size, out_size, picture, first;
    float *x, *g, *columns, *sums, *spread, *row, *row_spread, *pooled;

    Tower(const Block& block, int64_t unit) : b(block) {
        maps = b.channels / b.towers;
        picture = unit / b.towers;
        first = unit % b.towers * maps;
        size = b.height * b.width;
        out_size = b.kernel ? b.out_height * b.out_width : size;
        const int64_t longest = b.width > b.out_width ? b.width : b.out_width, line = line_room(longest, maps);
        const int64_t slice = size * SLICE > longest * maps ? size * SLICE : longest * maps;
        const int64_t needed = 2 * size * maps + 3 * slice + 2 * line + out_size * maps + 9 * 32;
        if (int64_t(room.floats.size()) < needed) room.floats.resize(needed);
        int64_t offset = (64 - (uintptr_t)room.floats.data() % 64) % 64 / 4;
        x = room.at(offset, size * maps);
        g = room.at(offset, size * maps);
        columns = room.at(offset, slice);
        sums = room.at(offset, slice);
        spread = room.at(offset, slice);
        row = room.at(offset, line);
        row_spread = room.at(offset, line);
        memset(row, 0, sizeof(float) * line);
        memset(row_spread, 0, sizeof(float) * line);
        pooled = room.at(offset, out_size * maps);
    }

    // What pooling sees: x from memory, through everything before it.
    void before(const T* from) {
        from += picture * size * b.channels + first;
        for (int64_t y = 0; y < b.height; y++) {
            take(from + y * b.width * b.channels, x + y * b.width * maps, b.width);
            float* line = x + y * b.width * maps;
            if (b.norm_before.half >= 0) normalise(line, line, b.width, maps, b.norm_before, row);
        }
    }

    // Some pixels from memory through the first ReLU.
    void take(const T* from, float* to, int64_t pixels) {
        for (int64_t p = 0; p < pixels; p++)
            for (int64_t c = 0; c < maps; c += WIDTH) {
                Floats v = load(from + p * b.channels + c);
                store(to + p * maps + c, b.relu_before ? relu(v) : v);
            }
    }

    // Pooling and the ReLU after it, into `pooled` and, where there is room for them, the maxima's places.
    void pool(uint8_t* places) {
        for (int64_t oy = 0; oy < b.out_height; oy++)
            for (int64_t ox = 0; ox < b.out_width; ox++) {
                const int64_t o = oy * b.out_width + ox, y = oy * b.stride, at = ox * b.stride;
                const int64_t rows = left(b.height, y, b.kernel), cols = left(b.width, at, b.kernel);
                const float* corner = x + (y * b.width + at) * maps;
                for (int64_t c = 0; c < maps; c += WIDTH) {
                    Ints place;
                    const bool whole = b.kernel == 3 && rows == 3 && cols == 3;  // the usual one, unrolled
                    Floats best = whole ? maximum(corner + c, b.width * maps, maps, 3, 3, 3, &place)
                                        : maximum(corner + c, b.width * maps, maps, b.kernel, rows, cols, &place);
                    if (b.relu_after) {
                        place = best <= 0 ? Ints{} + NOWHERE : place;
                        best = relu(best);
                    }
                    store(pooled + o * maps + c, best);
                    if (places) store(places + (picture * out_size + o) * b.channels + first + c, place);
                }
            }
    }

    void forward(const T* from, T* to, uint8_t* places) {
        before(from);
        if (b.within_half >= 0) within(x, maps, columns, sums, b);
        float* result = x;
        if (b.kernel) {
            pool(places);
            result = pooled;
        }
        to += picture * out_size * b.channels + first;
        if (b.norm_after.half >= 0)
            for (int64_t y = 0; y < b.out_height; y++) {
                float* line = pooled + y * b.out_width * maps;
                normalise(line, line, b.out_width, maps, b.norm_after, row);
            }
        for (int64_t p = 0; p < out_size; p++)
            for (int64_t c = 0; c < maps; c += WIDTH) store(to + p * b.channels + c, load(result + p * maps + c));
    }

    void backward(const T* from, const uint8_t* places, const T* gradient, T* to) {
        gradient += picture * out_size * b.channels + first;
        const bool recompute = b.within_half >= 0 || b.norm_after.half >= 0;
        if (recompute) before(from);
        if (b.norm_after.half >= 0) {
            if (b.within_half >= 0) within(x, maps, columns, sums, b);
            pool(nullptr);
            if (b.within_half >= 0) before(from);
        }
        if (b.kernel) {
            memset(g, 0, sizeof(float) * size * maps);
            unpool(gradient, places + picture * out_size * b.channels + first);
        } else {
            for (int64_t p = 0; p < size; p++)
                for (int64_t c = 0; c < maps; c += WIDTH) store(g + p * maps + c, load(gradient + p * b.channels + c));
        }
        if (b.within_half >= 0) within_back(x, g, maps, columns, sums, spread, b);
        from += picture * size * b.channels + first;
        to += picture * size * b.channels + first;
        for (int64_t y = 0; y < b.height; y++) {
            float *line = g + y * b.width * maps, *input = columns;
            const T* values = from + y * b.width * b.channels;
            if (b.norm_before.half >= 0) {
                take(values, input, b.width);
                normalise_back(input, line, b.width, maps, b.norm_before, row, row_spread);
            }
            for (int64_t p = 0; p < b.width; p++)
                for (int64_t c = 0; c < maps; c += WIDTH) {
                    Floats v = load(line + p * maps + c);
                    if (b.relu_before) v = load(values + p * b.channels + c) <= 0 ? Floats{} : v;
                    store(to + (y * b.width + p) * b.channels + c, v);
                }
        }
    }

    // Each output's gradient to the place of its maximum, in the order of the outputs.
    void unpool(const T* gradient, const uint8_t* places) {
        float* line = sums;
        for (int64_t oy = 0; oy < b.out_height; oy++) {
            const int64_t o = oy * b.out_width, y = oy * b.stride, rows = left(b.height, y, b.kernel);
            for (int64_t p = 0; p < b.out_width; p++)
                for (int64_t c = 0; c < maps; c += WIDTH)
                    store(line + p * maps + c, load(gradient + (o + p) * b.channels + c));
            if (b.norm_after.half >= 0)
                normalise_back(pooled + o * maps, line, b.out_width, maps, b.norm_after, row, row_spread);
            for (int64_t ox = 0; ox < b.out_width; ox++) {
                const int64_t at = ox * b.stride, cols = left(b.width, at, b.kernel);
                float* corner = g + (y * b.width + at) * maps;
                for (int64_t c = 0; c < maps; c += WIDTH) {
                    const Ints place = load(places + (o + ox) * b.channels + c);
                    const Floats v = load(line + ox * maps + c);
                    if (b.kernel == 3 && rows == 3 && cols == 3)
                        give(corner + c, b.width * maps, maps, 3, 3, 3, place, v);
                    else
                        give(corner + c, b.width * maps, maps, b.kernel, rows, cols, place, v);
                }
            }
        }
    }
};

template <typename T>
static void forward(const Block& b, const void* x, void* y, uint8_t* places) {
#pragma omp parallel for schedule(static) num_threads(b.threads) if (b.threads > 1)
    for (int64_t unit = 0; unit < b.pictures * b.towers; unit++)
        Tower<T>(b, unit).forward((const T*)x, (T*)y, places);
}

template <typename T>
static void backward(const Block& b, const void* x, const uint8_t* places, const void* gradient, void* to) {
#pragma omp parallel for schedule(static) num_threads(b.threads) if (b.threads > 1)
    for (int64_t unit = 0; unit < b.pictures * b.towers; unit++)
        Tower<T>(b, unit).backward((const T*)x, places, (const T*)gradient, (T*)to);
}

extern "C" void block_forward(const Block* b, const void* x, void* y, uint8_t* places) {
    b->bfloat16 ? forward<uint16_t>(*b, x, y, places) : forward<float>(*b, x, y, places);
}

extern "C" void block_backward(const Block* b, const void* x, const uint8_t* places, const void* gradient, void* to) {
    b->bfloat16 ? backward<uint16_t>(*b, x, places, gradient, to) : backward<float>(*b, x, places, gradient, to);
}
