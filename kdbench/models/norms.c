/* Batch normalisation in training, with the sum and the ReLU that follow it, in as few passes as there can be.
 *
 *     y = relu(weight * (x - mean) / sqrt(variance + eps) + bias + skip)
 *
 * of a channels-last map, which is a matrix [rows, channels]: two passes forward, one for mean and variance of each
 * channel and one for y, and two passes backward (Ioffe and Szegedy, arXiv:1502.03167, section 3). What is in bfloat16
 * is computed in float32. Sums are float32 within a tile of some thousand numbers, and float64 over the tiles; a tile's
 * variance is taken about its own mean and joined to that of the tiles before it (Chan, Golub and LeVeque, 1979).
 *
 * The order of all sums depends on the shape alone. Products and sums are fused on AVX-512 and nowhere else, so that
 * the bits depend on the processor but not on the compiler: build with -ffp-contract=off and without -ffast-math.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))
/* Channels in a vector, and vectors of the fewest channels that most networks have: no sum depends on either. Vectors
 * wider than the processor's are taken apart by the compiler, at a loss of speed. */
#ifdef __AVX512F__
#define LANES 16
#define FEW 1
#else
#define LANES 8
#define FEW 2
#endif
/* Vectors of channels that are dealt with together: all, in most maps, so that memory is read in its order. */
#define GROUP 16
/* Partial sums of a channel, of every fourth row each, so that additions do not wait for one another. */
#define SUMS 4
/* Numbers in a tile: it is read twice, and in the second-level cache meanwhile. */
#define TILE 16384

typedef float floats __attribute__((vector_size(4 * LANES)));
typedef int32_t ints __attribute__((vector_size(4 * LANES)));
typedef uint32_t words __attribute__((vector_size(4 * LANES)));
typedef uint16_t halves __attribute__((vector_size(2 * LANES)));

/* A matrix of float32, or of bfloat16 where `half`. */
typedef struct {
    void *data;
    int half;
} matrix;

/* Rows of one tile, and channels of one group: the first one, their vectors, and the channels of the last of these. */
typedef struct {
    int64_t first, end, channels, channel;
    int vectors, last;
} part;

INLINE int width(part p, int v) { return v + 1 < p.vectors ? LANES : p.last; }
INLINE int64_t place(part p, int64_t row, int v) { return row * p.channels + p.channel + v * LANES; }

INLINE floats read_floats(const float *from, int n) {
    floats v = {0};
    memcpy(&v, from, n * sizeof(float));
    return v;
}

INLINE floats load(matrix m, int64_t at, int n) {
    if (!m.half) return read_floats((const float *)m.data + at, n);
    halves h = {0};
    memcpy(&h, (const uint16_t *)m.data + at, n * sizeof(uint16_t));
#ifdef __AVX512F__
    return (floats)((words)_mm512_cvtepu16_epi32((__m256i)h) << 16);
#else
    return (floats)(__builtin_convertvector(h, words) << 16);
#endif
}

/* bfloat16 is rounded to nearest, ties to even; what is not a number stays that. */
INLINE halves rounded(floats v) {
#ifdef __AVX512BF16__
    return (halves)_mm512_cvtneps_pbh((__m512)v);
#else
    words bits = (words)v, nan = (words)(v != v);
    bits = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    return __builtin_convertvector((bits & ~nan) | (0x7fc0 & nan), halves);
#endif
}

INLINE void store(matrix m, int64_t at, int n, floats v) {
    if (m.half) {
        halves h = rounded(v);
        memcpy((uint16_t *)m.data + at, &h, n * sizeof(uint16_t));
    } else {
        memcpy((float *)m.data + at, &v, n * sizeof(float));
    }
}

/* a * b + c */
INLINE floats fused(floats a, floats b, floats c) {
#ifdef __AVX512F__
    return (floats)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#else
    return a * b + c;
#endif
}

/* `v` where `by` is greater than 0 or not a number, 0 elsewhere: as torch's ReLU, so that a NaN is seen in the loss. */
INLINE floats where_positive(floats v, floats by) { return (floats)((ints)v & ~(by <= 0)); }

INLINE floats total(const floats *s) { return (s[0] + s[1]) + (s[2] + s[3]); }

/* DO(row, v, k) for every row and vector of `p` in order, the rows SUMS at a time and the k-th of them with that k. */
#define FOR_ROWS(p, DO)                                                  \
    do {                                                                 \
        int64_t row = p.first;                                           \
        for (; row + SUMS <= p.end; row += SUMS) {                       \
            _Pragma("GCC unroll 4") for (int k = 0; k < SUMS; k++)       \
                _Pragma("GCC unroll 2") for (int v = 0; v < p.vectors; v++) \
                    DO(row + k, v, k);                                   \
        }                                                                \
        for (; row < p.end; row++)                                       \
            for (int v = 0; v < p.vectors; v++) DO(row, v, 0);           \
    } while (0)

/* DO(p) for every part of the matrix, in order. Where all vectors are `whole` there is code for just FEW of them, whose
 * sums stay in registers, and code for any number. */
#define FOR_PARTS(rows, channels_, whole, DO)                                                                 \
    do {                                                                                                      \
        int64_t most = TILE / (channels_) / SUMS * SUMS, step = most < 4 * SUMS ? 4 * SUMS : most;            \
        for (int64_t row = 0; row < (rows); row += step)                                                      \
            for (int64_t c = 0; c < (channels_); c += GROUP * LANES) {                                        \
                int64_t left = (channels_)-c, end = row + step < (rows) ? row + step : (rows);                \
                int n = left < GROUP * LANES ? (int)left : GROUP * LANES, vectors = (n + LANES - 1) / LANES;  \
                part p = {row, end, (channels_), c, vectors, whole ? LANES : n - (vectors - 1) * LANES};      \
                if (whole && vectors == FEW) {                                                                \
                    p.vectors = FEW;                                                                          \
                    DO(p);                                                                                    \
                } else {                                                                                      \
                    DO(p);                                                                                    \
                }                                                                                             \
            }                                                                                                 \
    } while (0)

/* What is known of each channel: its parameters, what the forward pass finds for the backward pass, and room for sums. */
typedef struct {
    const float *weight, *bias;
    float *mean, *scale; /* scale: 1 / sqrt(variance + eps) */
    double *sums, *products;
} channel_facts;

INLINE channel_facts facts_at(float *kept, int64_t channels, const float *weight, const float *bias) {
    double *room = (double *)(kept + 2 * channels);
    memset(room, 0, 2 * channels * sizeof(double));
    return (channel_facts){weight, bias, kept, kept + channels, room, room + channels};
}

/* Join mean and sum of squared deviations of the rows of `p` to those of the rows before. */
INLINE void add_moments(part p, matrix x, double *mean, double *squares) {
    floats s[GROUP][SUMS] = {{{0}}}, own[GROUP];
#define SUM(row, v, k) s[v][k] += load(x, place(p, row, v), width(p, v))
    FOR_ROWS(p, SUM);
#undef SUM
    for (int v = 0; v < p.vectors; v++) {
        own[v] = total(s[v]) / (float)(p.end - p.first);
        for (int k = 0; k < SUMS; k++) s[v][k] = (floats){0};
    }
#define SQUARE(row, v, k)                                                  \
    do {                                                                   \
        floats apart = load(x, place(p, row, v), width(p, v)) - own[v];    \
        s[v][k] = fused(apart, apart, s[v][k]);                            \
    } while (0)
    FOR_ROWS(p, SQUARE);
#undef SQUARE
    double share = (double)(p.end - p.first) / (double)p.end;
    for (int v = 0; v < p.vectors; v++) {
        floats sum = total(s[v]);
        for (int l = 0; l < width(p, v); l++) {
            int64_t c = p.channel + v * LANES + l;
            double apart = (double)own[v][l] - mean[c];
            mean[c] += apart * share;
            squares[c] += (double)sum[l] + apart * apart * share * (double)p.first;
        }
    }
}

INLINE void apply(part p, matrix x, matrix skip, matrix y, int relu, channel_facts facts) {
    floats slope[GROUP], offset[GROUP];
    for (int v = 0; v < p.vectors; v++) {
        int64_t c = place(p, 0, v);
        int n = width(p, v);
        slope[v] = read_floats(facts.weight + c, n) * read_floats(facts.scale + c, n);
        offset[v] = read_floats(facts.bias + c, n) - read_floats(facts.mean + c, n) * slope[v];
    }
#define APPLY(row, v, k)                                                    \
    do {                                                                    \
        int64_t at = place(p, row, v);                                      \
        int n = width(p, v);                                                \
        floats made = fused(load(x, at, n), slope[v], offset[v]);           \
        if (skip.data) made += load(skip, at, n);                           \
        store(y, at, n, relu ? where_positive(made, made) : made);          \
    } while (0)
    FOR_ROWS(p, APPLY);
#undef APPLY
}

/* The gradient at the normalised map: that at y, where y is positive. */
INLINE floats passed(matrix dy, matrix y, int relu, int64_t at, int n) {
    floats g = load(dy, at, n);
    return relu ? where_positive(g, load(y, at, n)) : g;
}

/* Add the sums over the rows of `p` of the gradient, and of the gradient times x - mean; leave the gradient in dskip. */
INLINE void add_sums(part p, matrix x, matrix y, matrix dy, matrix dskip, int relu, channel_facts facts) {
    floats s[GROUP][SUMS] = {{{0}}}, t[GROUP][SUMS] = {{{0}}}, centre[GROUP];
    for (int v = 0; v < p.vectors; v++) centre[v] = read_floats(facts.mean + place(p, 0, v), width(p, v));
#define SUM(row, v, k)                                                      \
    do {                                                                    \
        int64_t at = place(p, row, v);                                      \
        int n = width(p, v);                                                \
        floats g = passed(dy, y, relu, at, n);                              \
        if (dskip.data) store(dskip, at, n, g);                             \
        s[v][k] += g;                                                       \
        t[v][k] = fused(g, load(x, at, n) - centre[v], t[v][k]);            \
    } while (0)
    FOR_ROWS(p, SUM);
#undef SUM
    for (int v = 0; v < p.vectors; v++) {
        floats sum = total(s[v]), product = total(t[v]);
        for (int l = 0; l < width(p, v); l++) {
            facts.sums[p.channel + v * LANES + l] += sum[l];
            facts.products[p.channel + v * LANES + l] += product[l];
        }
    }
}

/* dx = weight * scale * (g - mean of g - (x - mean) * scale^2 * mean of g * (x - mean)) */
INLINE void descend(part p, matrix x, matrix y, matrix dy, matrix dskip, matrix dx, int relu, channel_facts facts,
                    const float *dweight, const float *dbias, float rows) {
    floats slope[GROUP], tilt[GROUP], offset[GROUP], centre[GROUP];
    for (int v = 0; v < p.vectors; v++) {
        int64_t c = place(p, 0, v);
        int n = width(p, v);
        floats scale = read_floats(facts.scale + c, n);
        slope[v] = read_floats(facts.weight + c, n) * scale;
        tilt[v] = -slope[v] * scale * read_floats(dweight + c, n) / rows;
        offset[v] = -slope[v] * read_floats(dbias + c, n) / rows;
        centre[v] = read_floats(facts.mean + c, n);
    }
#define DESCEND(row, v, k)                                                                  \
    do {                                                                                    \
        int64_t at = place(p, row, v);                                                      \
        int n = width(p, v);                                                                \
        floats g = dskip.data ? load(dskip, at, n) : passed(dy, y, relu, at, n);            \
        floats level = fused(tilt[v], load(x, at, n) - centre[v], offset[v]);               \
        store(dx, at, n, fused(slope[v], g, level));                                        \
    } while (0)
    FOR_ROWS(p, DESCEND);
#undef DESCEND
}

INLINE void forward(matrix x, matrix skip, matrix y, int relu, int whole, int64_t rows, int64_t channels,
                    channel_facts facts, float *running_mean, float *running_variance, double momentum, double eps) {
    double *mean = facts.sums, *squares = facts.products;
#define MOMENTS(p) add_moments(p, x, mean, squares)
    FOR_PARTS(rows, channels, whole, MOMENTS);
#undef MOMENTS
    for (int64_t c = 0; c < channels; c++) {
        facts.mean[c] = mean[c];
        facts.scale[c] = 1 / sqrt(squares[c] / rows + eps);
        running_mean[c] = (1 - momentum) * running_mean[c] + momentum * mean[c];
        running_variance[c] = (1 - momentum) * running_variance[c] + momentum * squares[c] / (rows - 1);
    }
#define APPLIED(p) apply(p, x, skip, y, relu, facts)
    FOR_PARTS(rows, channels, whole, APPLIED);
#undef APPLIED
}

INLINE void backward(matrix x, matrix y, matrix dy, matrix dx, matrix dskip, int relu, int whole, int64_t rows,
                     int64_t channels, channel_facts facts, float *dweight, float *dbias) {
#define SUMMED(p) add_sums(p, x, y, dy, dskip, relu, facts)
    FOR_PARTS(rows, channels, whole, SUMMED);
#undef SUMMED
    for (int64_t c = 0; c < channels; c++) {
        dbias[c] = facts.sums[c];
        dweight[c] = facts.products[c] * facts.scale[c];
    }
#define DESCENDED(p) descend(p, x, y, dy, dskip, dx, relu, facts, dweight, dbias, rows)
    FOR_PARTS(rows, channels, whole, DESCENDED);
#undef DESCENDED
}

/* RUN(x_half, y_half, whole) with constants for what nearly all maps are, so that there is code for just that. */
#define RUN_AS_USUAL(x_half, y_half, channels, RUN)                        \
    do {                                                                   \
        if ((channels) % LANES || x_half != y_half) RUN(x_half, y_half, 0); \
        else if (x_half) RUN(1, 1, 1);                                     \
        else RUN(0, 0, 1);                                                 \
    } while (0)

/* x and y: float32, or bfloat16 where x_half and y_half say so. skip is as y, and may be NULL. kept: float32
 * [6, channels], for norm_backward. */
void norm_forward(const void *x, int x_half, const void *skip, void *y, int y_half, int relu, int64_t rows,
                  int64_t channels, const float *weight, const float *bias, float *running_mean,
                  float *running_variance, double momentum, double eps, float *kept) {
    channel_facts facts = facts_at(kept, channels, weight, bias);
#define RUN(a, b, whole)                                                                                     \
    forward((matrix){(void *)x, a}, (matrix){(void *)skip, b}, (matrix){y, b}, relu, whole, rows, channels,  \
            facts, running_mean, running_variance, momentum, eps)
    RUN_AS_USUAL(x_half, y_half, channels, RUN);
#undef RUN
}

/* dx is as x; dskip as y, and NULL where nobody asks for it. y may be NULL without relu. */
void norm_backward(const void *x, int x_half, const void *y, const void *dy, int y_half, int relu, void *dx,
                   void *dskip, int64_t rows, int64_t channels, const float *weight, float *kept, float *dweight,
                   float *dbias) {
    channel_facts facts = facts_at(kept, channels, weight, NULL);
#define RUN(a, b, whole)                                                                                \
    backward((matrix){(void *)x, a}, (matrix){(void *)y, b}, (matrix){(void *)dy, b}, (matrix){dx, a},  \
             (matrix){dskip, b}, relu, whole, rows, channels, facts, dweight, dbias)
    RUN_AS_USUAL(x_half, y_half, channels, RUN);
#undef RUN
}

/* x = relu(x + skip) of `count` numbers: what is left of the formula where the normalisation is folded away. */
INLINE void finish(matrix x, matrix skip, int relu, int64_t count) {
    for (int64_t at = 0; at < count; at += LANES) {
        int n = count - at < LANES ? (int)(count - at) : LANES;
        floats v = n == LANES ? load(x, at, LANES) : load(x, at, n);
        if (skip.data) v += n == LANES ? load(skip, at, LANES) : load(skip, at, n);
        if (relu) v = where_positive(v, v);
        if (n == LANES) store(x, at, LANES, v);
        else store(x, at, n, v);
    }
}

void norm_finish(void *x, int half, const void *skip, int relu, int64_t count) {
#define RUN(a) finish((matrix){x, a}, (matrix){(void *)skip, a}, relu, count)
    if (half) RUN(1);
    else RUN(0);
#undef RUN
}
