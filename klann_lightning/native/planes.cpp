// A model of pointwise layers and filters run over audio, forward and backward, in one pass.
//
// The model is a list of operations on planes: a plane is one channel of one row, CHUNK samples of
// it at a time. All planes of a chunk stay in the first-level cache, so the samples cross memory
// once: the input and the output. What the backward pass needs it computes again, from the filters'
// states at the start of every chunk, which is all that the forward pass keeps.
//
// planes.py writes the operations; models/klann.py holds the plain twin; dsp/svf.py and
// dsp/filtering.py are the mathematics in words. C interface, no library but libm and OpenMP.

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#if defined(__SSE__)
#include <xmmintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int BYTES = 64;  // of a vector register
constexpr int TILE = 4;    // vectors of time held in registers at once
#elif defined(__AVX__)
constexpr int BYTES = 32;
constexpr int TILE = 2;
#else
constexpr int BYTES = 16;
constexpr int TILE = 2;
#endif
constexpr int CHUNK = 64;     // samples
constexpr int SPAN = 64;      // chunks whose gradients are summed in the samples' type, then in double
constexpr int ENTRIES = 9;    // of a state space: A by rows, B, C, D
constexpr int CONTROLS = 5;   // of a filter: cutoff, damping, mix of low-, band- and high-pass
constexpr double CUTOFF_LIMIT = 16.0, DAMPING_LEAST = -16.0, DAMPING_MOST = 100.0;  // as in dsp/svf.py

enum Kind : int32_t { GATED = 0, LINEAR = 1, FILTER = 2 };

// One operation; offsets count parameters. A filter has its index in `weight`.
struct Operation {
    int32_t kind, fan_in, width, output, weight, bias, inputs;
};

template <class S>
struct Simd {
    static constexpr int WIDTH = BYTES / sizeof(S);
    static constexpr int VECTORS = CHUNK / WIDTH;
    typedef S Vec __attribute__((vector_size(BYTES)));
    typedef S Loose __attribute__((vector_size(BYTES), aligned(sizeof(S))));
};
template <class S>
using Vec = typename Simd<S>::Vec;

template <class S>
Vec<S> load(const S* from) {
    return *reinterpret_cast<const typename Simd<S>::Loose*>(from);
}

template <class S>
S sum(Vec<S> x) {
    S total = 0;
    for (int i = 0; i < Simd<S>::WIDTH; ++i) total += x[i];
    return total;
}

// ---------------------------------------------------------------- the gate

// exp(-x) for |x| <= 40, to 2e-7: 2^n 2^r with |r| <= 1/2, the polynomial of Cephes' exp2f.
inline Vec<float> exp_minus(Vec<float> x) {
    typedef int32_t Int __attribute__((vector_size(BYTES)));
    const Vec<float> t = x * -1.44269504f;
    const Vec<float> shifted = t + 12582912.0f;  // 1.5 2^23: the integer part ends in the lowest bits
    const Vec<float> r = t - (shifted - 12582912.0f);
    Vec<float> p = r * 1.535336188e-4f + 1.339887440e-3f;
    p = p * r + 9.618437357e-3f;
    p = p * r + 5.550332471e-2f;
    p = p * r + 2.402264791e-1f;
    p = p * r + 6.931472028e-1f;
    p = p * r + 1.0f;
    const Int power = (reinterpret_cast<Int>(shifted) + 127) << 23;
    return p * reinterpret_cast<Vec<float>>(power);
}

inline Vec<double> exp_minus(Vec<double> x) {
    Vec<double> y;
    for (int i = 0; i < Simd<double>::WIDTH; ++i) y[i] = std::exp(-x[i]);
    return y;
}

template <class S>
Vec<S> within(Vec<S> x, S limit) {
    x = x > limit ? Vec<S>{} + limit : x;  // what is not a number stays so
    return x < -limit ? Vec<S>{} - limit : x;
}

// Sigmoids of two vectors with one division; beyond 40 a sigmoid is 0 or 1 to the last bit in float.
inline void sigmoids(Vec<float>& a, Vec<float>& b) {
    const Vec<float> p = 1.0f + exp_minus(within(a, 40.0f)), q = 1.0f + exp_minus(within(b, 40.0f));
    const Vec<float> inverse = 1.0f / (p * q);
    a = inverse * q;
    b = inverse * p;
}

inline void sigmoids(Vec<double>& a, Vec<double>& b) {
    a = 1.0 / (1.0 + exp_minus(a));
    b = 1.0 / (1.0 + exp_minus(b));
}

// ---------------------------------------------------------------- the filters' coefficients

// A number and its derivatives with respect to a filter's controls.
struct Dual {
    double value = 0, slope[CONTROLS] = {};
};

Dual chain(const Dual& x, double value, double derivative) {
    Dual y;
    y.value = value;
    for (int i = 0; i < CONTROLS; ++i) y.slope[i] = derivative * x.slope[i];
    return y;
}
Dual operator+(const Dual& x, const Dual& y) {
    Dual z;
    z.value = x.value + y.value;
    for (int i = 0; i < CONTROLS; ++i) z.slope[i] = x.slope[i] + y.slope[i];
    return z;
}
Dual operator*(const Dual& x, const Dual& y) {
    Dual z;
    z.value = x.value * y.value;
    for (int i = 0; i < CONTROLS; ++i) z.slope[i] = x.slope[i] * y.value + x.value * y.slope[i];
    return z;
}
Dual operator*(double a, const Dual& x) { return chain(x, a * x.value, a); }
Dual operator+(double a, const Dual& x) { return chain(x, a + x.value, 1); }
Dual operator-(const Dual& x) { return -1.0 * x; }
Dual operator-(const Dual& x, const Dual& y) { return x + -y; }

Dual control(double value, int index) {
    Dual x;
    x.value = value;
    x.slope[index] = 1;
    return x;
}

Dual clamp(const Dual& x, double least, double most) {
    if (x.value < least) return chain(x, least, 0);
    return x.value > most ? chain(x, most, 0) : x;
}

// The state space of dsp/svf.py: controls_from_raw, then state_space_from_controls.
void state_space(const double* raw, Dual* entries) {
    const double half_pi = std::acos(0.0);
    const Dual cutoff = clamp(control(raw[0], 0), -CUTOFF_LIMIT, CUTOFF_LIMIT);
    const Dual damping = clamp(control(raw[1], 1), DAMPING_LEAST, DAMPING_MOST);
    const double part = 1 / (1 + std::exp(-cutoff.value)), tangent = std::tan(half_pi * part);
    const Dual g = chain(cutoff, tangent, half_pi * (1 + tangent * tangent) * part * (1 - part));
    const double soft = damping.value > 20 ? damping.value : std::log1p(std::exp(damping.value));
    const Dual r = chain(damping, soft, damping.value > 20 ? 1 : 1 / (1 + std::exp(-damping.value)));
    const Dual low = control(raw[2], 2), band = control(raw[3], 3), high = control(raw[4], 4);
    const Dual rg = 2.0 * (r * g), gg = g * g, whole = 1.0 + (rg + gg);
    const Dual e = chain(whole, 1 / whole.value, -1 / (whole.value * whole.value));
    const Dual ge = g * e, k = band - 2.0 * (r * high) + g * (low - high);
    entries[0] = -1.0 + 2.0 * e;
    entries[1] = -2.0 * ge;
    entries[2] = 2.0 * ge;
    entries[3] = (1.0 + (rg - gg)) * e;
    entries[4] = 2.0 * ge;
    entries[5] = 2.0 * (g * ge);
    entries[6] = k * e;
    entries[7] = low - high - k * ge;
    entries[8] = high + k * ge;
}

// A filter unrolled over one vector of time.
template <class S>
struct Filter {
    static constexpr int W = Simd<S>::WIDTH;
    double space[ENTRIES];
    double leap[4];           // A^W
    alignas(64) S power[4][W];     // entries of A^t at lane t
    alignas(64) S ahead[2][2 * W]; // W zeros, then A^n B
    alignas(64) S behind[2][2 * W];  // (A^T)^n C backwards, then W zeros

    void set(const double* entries) {
        std::memcpy(space, entries, sizeof space);
        const double *a = space, *b = space + 4, *c = space + 6;
        double p[4] = {1, 0, 0, 1};
        std::memset(ahead, 0, sizeof ahead);
        std::memset(behind, 0, sizeof behind);
        for (int n = 0; n < W; ++n) {
            for (int i = 0; i < 4; ++i) power[i][n] = S(p[i]);
            for (int i = 0; i < 2; ++i) {
                ahead[i][W + n] = S(p[2 * i] * b[0] + p[2 * i + 1] * b[1]);
                behind[i][W - 1 - n] = S(p[i] * c[0] + p[2 + i] * c[1]);
            }
            const double next[4] = {a[0] * p[0] + a[1] * p[2], a[0] * p[1] + a[1] * p[3],
                                    a[2] * p[0] + a[3] * p[2], a[2] * p[1] + a[3] * p[3]};
            std::memcpy(p, next, sizeof p);
        }
        std::memcpy(leap, p, sizeof leap);
    }
};

// ---------------------------------------------------------------- a chunk of one row

template <class S>
struct Model {
    const Operation* operations;
    const int32_t* inputs;
    int32_t count, planes, widest, filters;
    int64_t parameters;
    const S* weights;
    const Filter<S>* bank;
    S input_scale, output_scale;
};

// The scratch of one thread: planes of values, gates, states and gradients.
template <class S>
struct Work {
    typedef Simd<S> T;
    static constexpr int N = T::VECTORS;
    Vec<S>*block, *value, *gate, *state, *grad, *pre, *sums, *filter_sums;

    Work(const Model<S>& m, bool backward) {
        const int64_t kept = backward ? 1 : 0;
        const int64_t vectors = (m.planes * N) * (2 + kept) + 2 * m.filters * N + kept * 2 * m.widest * N +
                                kept * (m.parameters + ENTRIES * m.filters);
        block = static_cast<Vec<S>*>(std::aligned_alloc(64, (vectors * BYTES + 63) / 64 * 64));
        value = block;
        gate = value + m.planes * N;
        state = gate + m.planes * N;
        grad = state + 2 * m.filters * N;
        pre = grad + kept * m.planes * N;
        sums = pre + kept * 2 * m.widest * N;
        filter_sums = sums + kept * m.parameters;
    }
    ~Work() { std::free(block); }
    Work(const Work&) = delete;
};

// R rows of a linear layer over TILE vectors of time.
template <class S, int R>
inline void affine(const S* const (&weight)[R], const S (&bias)[R], const Vec<S>* values, const int32_t* inputs,
                   int fan_in, int at, Vec<S> (&sum)[R][TILE]) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < TILE; ++v) sum[r][v] = Vec<S>{} + bias[r];
    for (int i = 0; i < fan_in; ++i) {
        const Vec<S>* x = values + inputs[i] * Simd<S>::VECTORS + at;
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
            for (int v = 0; v < TILE; ++v) sum[r][v] += x[v] * weight[r][i];
    }
}

// U units of a gated layer: value times sigmoid of gate.
template <class S, int U>
inline void gated(const Model<S>& m, const Operation& op, int unit, Work<S>& work) {
    constexpr int N = Simd<S>::VECTORS;
    const S* weight[2 * U];
    S bias[2 * U];
    for (int r = 0; r < 2 * U; ++r) {
        const int row = unit + r % U + (r / U) * op.width;
        weight[r] = m.weights + op.weight + row * op.fan_in;
        bias[r] = m.weights[op.bias + row];
    }
    for (int at = 0; at < N; at += TILE) {
        Vec<S> sum[2 * U][TILE];
        affine<S, 2 * U>(weight, bias, work.value, m.inputs + op.inputs, op.fan_in, at, sum);
#pragma GCC unroll 8
        for (int u = 0; u < U; ++u) {
            Vec<S>* gate = work.gate + (op.output + unit + u) * N + at;
            Vec<S>* value = work.value + (op.output + unit + u) * N + at;
#pragma GCC unroll 8
            for (int v = 0; v < TILE; v += 2) {
                sigmoids(sum[U + u][v], sum[U + u][v + 1]);
                for (int w = v; w < v + 2; ++w) {
                    gate[w] = sum[U + u][w];
                    value[w] = sum[u][w] * sum[U + u][w];
                }
            }
        }
    }
}

// R outputs of the last, ungated layer.
template <class S, int R>
inline void linear(const Model<S>& m, const Operation& op, int unit, Work<S>& work) {
    constexpr int N = Simd<S>::VECTORS;
    const S* weight[R];
    S bias[R];
    for (int r = 0; r < R; ++r) {
        weight[r] = m.weights + op.weight + (unit + r) * op.fan_in;
        bias[r] = m.weights[op.bias + unit + r];
    }
    for (int at = 0; at < N; at += TILE) {
        Vec<S> sum[R][TILE];
        affine<S, R>(weight, bias, work.value, m.inputs + op.inputs, op.fan_in, at, sum);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r)
            for (int v = 0; v < TILE; ++v) work.value[(op.output + unit + r) * N + at + v] = sum[r][v];
    }
}

// One filter over a chunk: its states before each sample go to their planes, the last one to `state`.
template <class S>
inline void filter(const Filter<S>& f, const Vec<S>* input, Vec<S>* output, Vec<S>* first, Vec<S>* second,
                   double* state) {
    constexpr int W = Simd<S>::WIDTH, N = Simd<S>::VECTORS;
    const S* samples = reinterpret_cast<const S*>(input);
    const double *a = f.space, *b = f.space + 4;
    const S c0 = S(f.space[6]), c1 = S(f.space[7]), d = S(f.space[8]);
    for (int at = 0; at < N; at += TILE) {
        Vec<S> s[2][TILE] = {};
        for (int k = 0; k < W - 1; ++k) {
            const Vec<S> t0 = load<S>(f.ahead[0] + W - 1 - k), t1 = load<S>(f.ahead[1] + W - 1 - k);
#pragma GCC unroll 8
            for (int v = 0; v < TILE; ++v) {
                const S x = samples[(at + v) * W + k];
                s[0][v] += t0 * x;
                s[1][v] += t1 * x;
            }
        }
#pragma GCC unroll 8
        for (int v = 0; v < TILE; ++v) {
            const double x = samples[(at + v) * W + W - 1], z0 = s[0][v][W - 1], z1 = s[1][v][W - 1];
            const S p = S(state[0]), q = S(state[1]);
            s[0][v] += load<S>(f.power[0]) * p + load<S>(f.power[1]) * q;
            s[1][v] += load<S>(f.power[2]) * p + load<S>(f.power[3]) * q;
            const double next = f.leap[0] * state[0] + f.leap[1] * state[1] + (a[0] * z0 + a[1] * z1 + b[0] * x);
            state[1] = f.leap[2] * state[0] + f.leap[3] * state[1] + (a[2] * z0 + a[3] * z1 + b[1] * x);
            state[0] = next;
            first[at + v] = s[0][v];
            second[at + v] = s[1][v];
            output[at + v] = s[0][v] * c0 + s[1][v] * c1 + input[at + v] * d;
        }
    }
}

// The same for the last, shorter chunk of a row, sample by sample.
template <class S>
void filter_rest(const Filter<S>& f, const Vec<S>* input, Vec<S>* output, Vec<S>* first, Vec<S>* second,
                 double* state, int samples) {
    const S* x = reinterpret_cast<const S*>(input);
    S *y = reinterpret_cast<S*>(output), *s0 = reinterpret_cast<S*>(first), *s1 = reinterpret_cast<S*>(second);
    const double *a = f.space, *b = f.space + 4, *c = f.space + 6;
    for (int t = 0; t < CHUNK; ++t) {
        if (t >= samples) {
            y[t] = s0[t] = s1[t] = 0;
            continue;
        }
        s0[t] = S(state[0]);
        s1[t] = S(state[1]);
        y[t] = S(c[0] * state[0] + c[1] * state[1] + c[2] * x[t]);
        const double next = a[0] * state[0] + a[1] * state[1] + b[0] * x[t];
        state[1] = a[2] * state[0] + a[3] * state[1] + b[1] * x[t];
        state[0] = next;
    }
}

// All operations over one chunk; `states` [filters][2] go from its start to its end.
template <class S>
void forward_chunk(const Model<S>& m, const S* x, int samples, double* states, Work<S>& work) {
    constexpr int N = Simd<S>::VECTORS;
    S* input = reinterpret_cast<S*>(work.value);
    for (int t = 0; t < samples; ++t) input[t] = x[t] * m.input_scale;
    for (int t = samples; t < CHUNK; ++t) input[t] = 0;
    for (const Operation* op = m.operations; op < m.operations + m.count; ++op) {
        if (op->kind == GATED) {
            int unit = 0;
            for (; unit + 2 <= op->width; unit += 2) gated<S, 2>(m, *op, unit, work);
            if (unit < op->width) gated<S, 1>(m, *op, unit, work);
        } else if (op->kind == LINEAR) {
            int unit = 0;
            for (; unit + 4 <= op->width; unit += 4) linear<S, 4>(m, *op, unit, work);
            for (; unit < op->width; ++unit) linear<S, 1>(m, *op, unit, work);
        } else {
            const int index = op->weight;
            const Vec<S>* from = work.value + m.inputs[op->inputs] * N;
            Vec<S>*to = work.value + op->output * N, *kept = work.state + 2 * index * N;
            if (samples == CHUNK)
                filter(m.bank[index], from, to, kept, kept + N, states + 2 * index);
            else
                filter_rest(m.bank[index], from, to, kept, kept + N, states + 2 * index, samples);
        }
    }
}

// ---------------------------------------------------------------- backward

// Gradient sums of a layer: R rows of gradients times I inputs.
template <class S, int R, int I>
inline void weigh(const Vec<S>* grads, const Vec<S>* const (&inputs)[I], int fan_in, Vec<S>* sums) {
    constexpr int N = Simd<S>::VECTORS;
    Vec<S> sum[R][I] = {};
#pragma GCC unroll 4
    for (int v = 0; v < N; ++v)
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
            for (int i = 0; i < I; ++i) sum[r][i] += grads[r * N + v] * inputs[i][v];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
        for (int i = 0; i < I; ++i) sums[r * fan_in + i] += sum[r][i];
}

template <class S, int R>
inline void weigh_rows(const Model<S>& m, const Operation& op, int row, const Vec<S>* grads, Work<S>& work) {
    constexpr int N = Simd<S>::VECTORS;
    const int32_t* inputs = m.inputs + op.inputs;
    Vec<S>* sums = work.sums + op.weight + row * op.fan_in;
    int i = 0;
    for (; i + 4 <= op.fan_in; i += 4) {
        const Vec<S>* x[4] = {work.value + inputs[i] * N, work.value + inputs[i + 1] * N,
                              work.value + inputs[i + 2] * N, work.value + inputs[i + 3] * N};
        weigh<S, R, 4>(grads + row * N, x, op.fan_in, sums + i);
    }
    for (; i < op.fan_in; ++i) {
        const Vec<S>* x[1] = {work.value + inputs[i] * N};
        weigh<S, R, 1>(grads + row * N, x, op.fan_in, sums + i);
    }
    for (int r = 0; r < R; ++r) {
        Vec<S> total = {};
        for (int v = 0; v < N; ++v) total += grads[(row + r) * N + v];
        work.sums[op.bias + row + r] += total;
    }
}

// What I inputs of a layer get back from its `rows` gradients.
template <class S, int I>
inline void give_back(const Model<S>& m, const Operation& op, int first, int rows, const Vec<S>* grads,
                      Work<S>& work) {
    constexpr int N = Simd<S>::VECTORS;
    const S* weight = m.weights + op.weight + first;
    Vec<S>* target[I];
    for (int i = 0; i < I; ++i) target[i] = work.grad + m.inputs[op.inputs + first + i] * N;
    for (int at = 0; at < N; at += TILE) {
        Vec<S> sum[I][TILE];
#pragma GCC unroll 8
        for (int i = 0; i < I; ++i)
#pragma GCC unroll 8
            for (int v = 0; v < TILE; ++v) sum[i][v] = target[i][at + v];
        for (int r = 0; r < rows; ++r) {
            const Vec<S>* g = grads + r * N + at;
#pragma GCC unroll 8
            for (int i = 0; i < I; ++i)
#pragma GCC unroll 8
                for (int v = 0; v < TILE; ++v) sum[i][v] += g[v] * weight[r * op.fan_in + i];
        }
#pragma GCC unroll 8
        for (int i = 0; i < I; ++i)
#pragma GCC unroll 8
            for (int v = 0; v < TILE; ++v) target[i][at + v] = sum[i][v];
    }
}

template <class S>
void layer_backward(const Model<S>& m, const Operation& op, bool input_wanted, Work<S>& work) {
    constexpr int N = Simd<S>::VECTORS;
    const Vec<S>* grads = work.grad + op.output * N;
    int rows = op.width;
    if (op.kind == GATED) {
        rows = 2 * op.width;
        for (int j = 0; j < op.width * N; ++j) {  // v = a s(b): da = dv s, db = dv v (1 - s)
            const Vec<S> g = grads[j], s = work.gate[op.output * N + j];
            work.pre[j] = g * s;
            work.pre[op.width * N + j] = g * work.value[op.output * N + j] * (S(1) - s);
        }
        grads = work.pre;
    }
    int row = 0;
    for (; row + 4 <= rows; row += 4) weigh_rows<S, 4>(m, op, row, grads, work);
    for (; row < rows; ++row) weigh_rows<S, 1>(m, op, row, grads, work);
    if (!input_wanted) return;
    int i = 0;
    for (; i + 4 <= op.fan_in; i += 4) give_back<S, 4>(m, op, i, rows, grads, work);
    for (; i < op.fan_in; ++i) give_back<S, 1>(m, op, i, rows, grads, work);
}

// The adjoint of `filter`: l_t = C^T dy_t + A^T l_(t+1), dx_t = D dy_t + B^T l_(t+1); `state` holds l.
// Adds dA = sum l_(t+1) s_t^T, dB = sum l_(t+1) x_t, dC = sum dy_t s_t, dD = sum dy_t x_t to `sums`.
template <class S>
inline void filter_backward(const Filter<S>& f, const Vec<S>* input, const Vec<S>* first, const Vec<S>* second,
                            const Vec<S>* grad, Vec<S>* input_grad, double* state, Vec<S>* sums) {
    constexpr int W = Simd<S>::WIDTH, N = Simd<S>::VECTORS;
    const S* samples = reinterpret_cast<const S*>(grad);
    const double *a = f.space, *c = f.space + 6;
    const S b0 = S(f.space[4]), b1 = S(f.space[5]), d = S(f.space[8]);
    Vec<S> total[ENTRIES];
    for (int e = 0; e < ENTRIES; ++e) total[e] = sums[e];
    Vec<S> back[4];
    for (int t = 0; t < W; ++t)
        for (int e = 0; e < 4; ++e) back[e][t] = f.power[e][W - 1 - t];
    for (int at = N - TILE; at >= 0; at -= TILE) {
        Vec<S> l[2][TILE] = {};
        for (int k = 1; k < W; ++k) {
            const Vec<S> t0 = load<S>(f.behind[0] + W - k), t1 = load<S>(f.behind[1] + W - k);
#pragma GCC unroll 8
            for (int v = 0; v < TILE; ++v) {
                const S g = samples[(at + v) * W + k];
                l[0][v] += t0 * g;
                l[1][v] += t1 * g;
            }
        }
#pragma GCC unroll 8
        for (int v = TILE - 1; v >= 0; --v) {
            const double g = samples[(at + v) * W], z0 = l[0][v][0], z1 = l[1][v][0];
            const S p = S(state[0]), q = S(state[1]);
            l[0][v] += back[0] * p + back[2] * q;
            l[1][v] += back[1] * p + back[3] * q;
            const double next = f.leap[0] * state[0] + f.leap[2] * state[1] + (a[0] * z0 + a[2] * z1 + c[0] * g);
            state[1] = f.leap[1] * state[0] + f.leap[3] * state[1] + (a[1] * z0 + a[3] * z1 + c[1] * g);
            state[0] = next;
            const Vec<S> l0 = l[0][v], l1 = l[1][v], s0 = first[at + v], s1 = second[at + v];
            const Vec<S> x = input[at + v], y = grad[at + v];
            total[0] += l0 * s0;
            total[1] += l0 * s1;
            total[2] += l1 * s0;
            total[3] += l1 * s1;
            total[4] += l0 * x;
            total[5] += l1 * x;
            total[6] += y * s0;
            total[7] += y * s1;
            total[8] += y * x;
            input_grad[at + v] += l0 * b0 + l1 * b1 + y * d;
        }
    }
    for (int e = 0; e < ENTRIES; ++e) sums[e] = total[e];
}

// The same for the last, shorter chunk of a row.
template <class S>
void filter_rest_backward(const Filter<S>& f, const Vec<S>* input, const Vec<S>* first, const Vec<S>* second,
                          const Vec<S>* grad, Vec<S>* input_grad, double* state, Vec<S>* sums, int samples) {
    const S *x = reinterpret_cast<const S*>(input), *s0 = reinterpret_cast<const S*>(first),
            *s1 = reinterpret_cast<const S*>(second), *g = reinterpret_cast<const S*>(grad);
    S* back = reinterpret_cast<S*>(input_grad);
    const double *a = f.space, *b = f.space + 4, *c = f.space + 6;
    for (int t = samples - 1; t >= 0; --t) {
        const double l0 = state[0], l1 = state[1];
        const double terms[ENTRIES] = {l0 * s0[t], l0 * s1[t],   l1 * s0[t],   l1 * s1[t], l0 * x[t],
                                       l1 * x[t],  g[t] * s0[t], g[t] * s1[t], g[t] * x[t]};
        for (int e = 0; e < ENTRIES; ++e) sums[e][0] += S(terms[e]);
        back[t] += S(b[0] * l0 + b[1] * l1 + c[2] * g[t]);
        state[0] = a[0] * l0 + a[2] * l1 + c[0] * g[t];
        state[1] = a[1] * l0 + a[3] * l1 + c[1] * g[t];
    }
}

template <class S>
void backward_chunk(const Model<S>& m, const S* grad, int samples, double* adjoint, S* input_grad, Work<S>& work) {
    constexpr int N = Simd<S>::VECTORS;
    std::memset(static_cast<void*>(work.grad), 0, sizeof(Vec<S>) * m.planes * N);
    S* output = reinterpret_cast<S*>(work.grad + m.operations[m.count - 1].output * N);
    for (int t = 0; t < samples; ++t) output[t] = grad[t] * m.output_scale;
    for (const Operation* op = m.operations + m.count - 1; op >= m.operations; --op) {
        if (op->kind != FILTER) {
            layer_backward(m, *op, input_grad || m.inputs[op->inputs] > 0, work);
            continue;
        }
        const int index = op->weight, from = m.inputs[op->inputs] * N;
        const Vec<S>* kept = work.state + 2 * index * N;
        Vec<S>* sums = work.filter_sums + ENTRIES * index;
        if (samples == CHUNK)
            filter_backward(m.bank[index], work.value + from, kept, kept + N, work.grad + op->output * N,
                            work.grad + from, adjoint + 2 * index, sums);
        else
            filter_rest_backward(m.bank[index], work.value + from, kept, kept + N, work.grad + op->output * N,
                                 work.grad + from, adjoint + 2 * index, sums, samples);
    }
    if (input_grad)
        for (int t = 0; t < samples; ++t) input_grad[t] = reinterpret_cast<S*>(work.grad)[t] * m.input_scale;
}

// ---------------------------------------------------------------- rows and threads

// Denormals count as zero while this lives: a decay into silence is a hundred times slower otherwise.
struct Flushed {
#if defined(__SSE__)
    unsigned before = _mm_getcsr();
    Flushed() { _mm_setcsr(before | 0x8040); }
    ~Flushed() { _mm_setcsr(before); }
#elif defined(__aarch64__)
    uint64_t before;
    Flushed() {
        asm volatile("mrs %0, fpcr" : "=r"(before));
        asm volatile("msr fpcr, %0" ::"r"(before | (1u << 24)));
    }
    ~Flushed() { asm volatile("msr fpcr, %0" ::"r"(before)); }
#endif
};

// What a call says about the model; `bank` is where cutoff, damping and mix start in the parameters.
struct Header {
    int32_t count, planes, widest, filters, bank[3], threads;
    int64_t parameters, rows, samples;
    double input_scale, output_scale;
};

template <class S>
void raw_controls(const Header& h, const S* parameters, int filter, double* raw) {
    raw[0] = parameters[h.bank[0] + filter];
    raw[1] = parameters[h.bank[1] + filter];
    for (int i = 0; i < 3; ++i) raw[2 + i] = parameters[h.bank[2] + 3 * filter + i];
}

template <class S>
struct Prepared {
    Filter<S>* bank;
    Model<S> model;

    Prepared(const Header& h, const Operation* operations, const int32_t* inputs, const S* parameters) {
        bank = static_cast<Filter<S>*>(std::aligned_alloc(64, sizeof(Filter<S>) * h.filters));
        for (int f = 0; f < h.filters; ++f) {
            double raw[CONTROLS], values[ENTRIES];
            Dual entries[ENTRIES];
            raw_controls(h, parameters, f, raw);
            state_space(raw, entries);
            for (int e = 0; e < ENTRIES; ++e) values[e] = entries[e].value;
            bank[f].set(values);
        }
        model = {operations, inputs, h.count, h.planes, h.widest, h.filters, h.parameters, parameters,
                 bank, S(h.input_scale), S(h.output_scale)};
    }
    ~Prepared() { std::free(bank); }
    Prepared(const Prepared&) = delete;
};

// x, y [rows][samples]; states [rows][filters][2]; marks [rows][chunks][filters][2], or none.
template <class S>
void forward(const Header& h, const Operation* operations, const int32_t* inputs, const S* parameters, const S* x,
             const S* before, S* y, S* after, S* marks) {
    const Prepared<S> prepared(h, operations, inputs, parameters);
    const int64_t chunks = (h.samples + CHUNK - 1) / CHUNK, states = 2 * h.filters;
    const int output = operations[h.count - 1].output * Simd<S>::VECTORS;
#pragma omp parallel num_threads(h.threads) if (h.rows > 1 && h.threads > 1)
    {
        const Flushed flushed;
        Work<S> work(prepared.model, false);
        double* state = static_cast<double*>(std::malloc(sizeof(double) * states));
#pragma omp for schedule(dynamic, 1)
        for (int64_t row = 0; row < h.rows; ++row) {
            for (int i = 0; i < states; ++i) state[i] = before[row * states + i];
            for (int64_t chunk = 0; chunk < chunks; ++chunk) {
                const int64_t at = chunk * CHUNK, left = h.samples - at;
                const int samples = left < CHUNK ? int(left) : CHUNK;
                if (marks)
                    for (int i = 0; i < states; ++i) marks[(row * chunks + chunk) * states + i] = S(state[i]);
                forward_chunk(prepared.model, x + row * h.samples + at, samples, state, work);
                const S* from = reinterpret_cast<const S*>(work.value + output);
                for (int t = 0; t < samples; ++t) y[row * h.samples + at + t] = from[t] * prepared.model.output_scale;
            }
            for (int i = 0; i < states; ++i) after[row * states + i] = S(state[i]);
        }
        std::free(state);
    }
}

// Gradients from those of y and of the states after; input_grad may be none. Every row's sums are kept
// apart and added in order, so that the result does not depend on the number of threads.
template <class S>
void backward(const Header& h, const Operation* operations, const int32_t* inputs, const S* parameters, const S* x,
              const S* marks, const S* y_grad, const S* after_grad, S* input_grad, S* before_grad,
              S* parameter_grad) {
    const Prepared<S> prepared(h, operations, inputs, parameters);
    const int64_t chunks = (h.samples + CHUNK - 1) / CHUNK, states = 2 * h.filters;
    const int64_t sums = h.parameters + ENTRIES * h.filters;
    double* totals = static_cast<double*>(std::calloc(h.rows * sums, sizeof(double)));
#pragma omp parallel num_threads(h.threads) if (h.rows > 1 && h.threads > 1)
    {
        const Flushed flushed;
        Work<S> work(prepared.model, true);
        double *state = static_cast<double*>(std::malloc(2 * sizeof(double) * states)), *adjoint = state + states;
#pragma omp for schedule(dynamic, 1)
        for (int64_t row = 0; row < h.rows; ++row) {
            std::memset(static_cast<void*>(work.sums), 0, sizeof(Vec<S>) * sums);
            for (int i = 0; i < states; ++i) adjoint[i] = after_grad[row * states + i];
            for (int64_t chunk = chunks - 1; chunk >= 0; --chunk) {
                const int64_t at = row * h.samples + chunk * CHUNK, left = h.samples - chunk * CHUNK;
                const int samples = left < CHUNK ? int(left) : CHUNK;
                for (int i = 0; i < states; ++i) state[i] = marks[(row * chunks + chunk) * states + i];
                forward_chunk(prepared.model, x + at, samples, state, work);
                backward_chunk(prepared.model, y_grad + at, samples, adjoint, input_grad ? input_grad + at : nullptr,
                               work);
                if (chunk % SPAN == 0) {
                    for (int64_t i = 0; i < sums; ++i) totals[row * sums + i] += sum<S>(work.sums[i]);
                    std::memset(static_cast<void*>(work.sums), 0, sizeof(Vec<S>) * sums);
                }
            }
            for (int i = 0; i < states; ++i) before_grad[row * states + i] = S(adjoint[i]);
        }
        std::free(state);
    }
    for (int64_t row = 1; row < h.rows; ++row)
        for (int64_t i = 0; i < sums; ++i) totals[i] += totals[row * sums + i];
    for (int64_t i = 0; i < h.parameters; ++i) parameter_grad[i] = S(totals[i]);
    for (int f = 0; f < h.filters; ++f) {
        double raw[CONTROLS], slope[CONTROLS] = {};
        Dual entries[ENTRIES];
        raw_controls(h, parameters, f, raw);
        state_space(raw, entries);
        for (int e = 0; e < ENTRIES; ++e)
            for (int i = 0; i < CONTROLS; ++i)
                slope[i] += totals[h.parameters + ENTRIES * f + e] * entries[e].slope[i];
        parameter_grad[h.bank[0] + f] = S(slope[0]);
        parameter_grad[h.bank[1] + f] = S(slope[1]);
        for (int i = 0; i < 3; ++i) parameter_grad[h.bank[2] + 3 * f + i] = S(slope[2 + i]);
    }
    std::free(totals);
}

}  // namespace

extern "C" {
int klann_chunk() { return CHUNK; }

#define KLANN_ENTRY(S, NAME)                                                                                     \
    void klann_forward_##NAME(const Header* h, const int32_t* operations, const int32_t* inputs, const S* weights, \
                              const S* x, const S* before, S* y, S* after, S* marks) {                           \
        forward<S>(*h, reinterpret_cast<const Operation*>(operations), inputs, weights, x, before, y, after,     \
                   marks);                                                                                       \
    }                                                                                                            \
    void klann_backward_##NAME(const Header* h, const int32_t* operations, const int32_t* inputs,                 \
                               const S* weights, const S* x, const S* marks, const S* y_grad,                    \
                               const S* after_grad, S* input_grad, S* before_grad, S* weights_grad) {            \
        backward<S>(*h, reinterpret_cast<const Operation*>(operations), inputs, weights, x, marks, y_grad,       \
                    after_grad, input_grad, before_grad, weights_grad);                                          \
    }
KLANN_ENTRY(float, float32)
KLANN_ENTRY(double, float64)
}
