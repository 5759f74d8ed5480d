// All operations of a model over one chunk of one row.
#pragma once

#include <cstdint>
#include <cstdlib>
#include "svf.hpp"

namespace {

enum Kind : int32_t { GATED = 0, LINEAR = 1, FILTER = 2 };

// One operation; offsets count parameters. A filter has its index in `weight`.
struct Operation {
    int32_t kind, fan_in, width, output, weight, bias, inputs;
};

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
        responses(f.ahead, samples + at * W, 1, s);
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

}  // namespace
