// Vectors of samples, and the sigmoid of one.
#pragma once

#include <cmath>
#include <cstdint>

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
constexpr int CHUNK = 64;  // samples

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

}  // namespace
