// A model of pointwise layers and filters run over audio, forward and backward, in one pass.
//
// The model is a list of operations on planes: a plane is one channel of one row, CHUNK samples of
// it at a time. All planes of a chunk stay in the first-level cache, so the samples cross memory
// once: the input and the output. What the backward pass needs it computes again, from the filters'
// states at the start of every chunk, which is all that the forward pass keeps.
//
// planes.py writes the operations; models/klann.py holds the plain twin; dsp/svf.py and
// dsp/filtering.py are the mathematics in words. Here are the rows and the threads, in backward.hpp,
// forward.hpp, svf.hpp and simd.hpp what happens to a chunk. C interface, no library but libm and OpenMP.

#include <cstdint>
#include <cstring>
#include <vector>
#if defined(__SSE__)
#include <xmmintrin.h>
#endif

#include "backward.hpp"

namespace {

constexpr int SPAN = 64;  // chunks whose gradients are summed in the samples' type, then in double

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

// The model with its filters' coefficients and their derivatives in the controls.
template <class S>
struct Prepared {
    std::vector<Filter<S>> bank;
    std::vector<Dual> entries;  // [filters][ENTRIES]
    Model<S> model;

    Prepared(const Header& h, const Operation* operations, const int32_t* inputs, const S* parameters)
        : bank(h.filters), entries(h.filters * ENTRIES) {
        for (int f = 0; f < h.filters; ++f) {
            const S* mix = parameters + h.bank[2] + 3 * f;
            const double raw[CONTROLS] = {parameters[h.bank[0] + f], parameters[h.bank[1] + f], mix[0], mix[1], mix[2]};
            state_space(raw, &entries[f * ENTRIES]);
            bank[f].set(&entries[f * ENTRIES]);
        }
        model = {operations, inputs, h.count, h.planes, h.widest, h.filters, h.parameters, parameters,
                 bank.data(), S(h.input_scale), S(h.output_scale)};
    }
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
        std::vector<double> state(states);
#pragma omp for schedule(dynamic, 1)
        for (int64_t row = 0; row < h.rows; ++row) {
            for (int i = 0; i < states; ++i) state[i] = before[row * states + i];
            for (int64_t chunk = 0; chunk < chunks; ++chunk) {
                const int64_t at = chunk * CHUNK, left = h.samples - at;
                const int samples = left < CHUNK ? int(left) : CHUNK;
                if (marks)
                    for (int i = 0; i < states; ++i) marks[(row * chunks + chunk) * states + i] = S(state[i]);
                forward_chunk(prepared.model, x + row * h.samples + at, samples, state.data(), work);
                const S* from = reinterpret_cast<const S*>(work.value + output);
                for (int t = 0; t < samples; ++t) y[row * h.samples + at + t] = from[t] * prepared.model.output_scale;
            }
            for (int i = 0; i < states; ++i) after[row * states + i] = S(state[i]);
        }
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
    std::vector<double> totals(h.rows * sums);
#pragma omp parallel num_threads(h.threads) if (h.rows > 1 && h.threads > 1)
    {
        const Flushed flushed;
        Work<S> work(prepared.model, true);
        std::vector<double> state(states), adjoint(states);
#pragma omp for schedule(dynamic, 1)
        for (int64_t row = 0; row < h.rows; ++row) {
            std::memset(static_cast<void*>(work.sums), 0, sizeof(Vec<S>) * sums);
            for (int i = 0; i < states; ++i) adjoint[i] = after_grad[row * states + i];
            for (int64_t chunk = chunks - 1; chunk >= 0; --chunk) {
                const int64_t at = row * h.samples + chunk * CHUNK, left = h.samples - chunk * CHUNK;
                const int samples = left < CHUNK ? int(left) : CHUNK;
                for (int i = 0; i < states; ++i) state[i] = marks[(row * chunks + chunk) * states + i];
                forward_chunk(prepared.model, x + at, samples, state.data(), work);
                backward_chunk(prepared.model, y_grad + at, samples, adjoint.data(),
                               input_grad ? input_grad + at : nullptr, work);
                if (chunk % SPAN == 0) {
                    for (int64_t i = 0; i < sums; ++i) totals[row * sums + i] += sum<S>(work.sums[i]);
                    std::memset(static_cast<void*>(work.sums), 0, sizeof(Vec<S>) * sums);
                }
            }
            for (int i = 0; i < states; ++i) before_grad[row * states + i] = S(adjoint[i]);
        }
    }
    for (int64_t row = 1; row < h.rows; ++row)
        for (int64_t i = 0; i < sums; ++i) totals[i] += totals[row * sums + i];
    for (int64_t i = 0; i < h.parameters; ++i) parameter_grad[i] = S(totals[i]);
    for (int f = 0; f < h.filters; ++f) {
        double slope[CONTROLS] = {};
        for (int e = 0; e < ENTRIES; ++e)
            for (int i = 0; i < CONTROLS; ++i)
                slope[i] += totals[h.parameters + ENTRIES * f + e] * prepared.entries[f * ENTRIES + e].slope[i];
        parameter_grad[h.bank[0] + f] = S(slope[0]);
        parameter_grad[h.bank[1] + f] = S(slope[1]);
        for (int i = 0; i < 3; ++i) parameter_grad[h.bank[2] + 3 * f + i] = S(slope[2 + i]);
    }
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
