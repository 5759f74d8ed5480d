// The gradients of one chunk of one row, after forward.hpp has run over it again.
#pragma once

#include <cstdint>
#include <cstring>
#include "forward.hpp"

namespace {

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
    alignas(64) S reversed[4][W];
    for (int e = 0; e < 4; ++e)
        for (int t = 0; t < W; ++t) reversed[e][t] = f.power[e][W - 1 - t];
    const Vec<S> back[4] = {load<S>(reversed[0]), load<S>(reversed[1]), load<S>(reversed[2]), load<S>(reversed[3])};
    for (int at = N - TILE; at >= 0; at -= TILE) {
        Vec<S> l[2][TILE] = {};
        responses(f.behind, samples + at * W, 0, l);
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

}  // namespace
