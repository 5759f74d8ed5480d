// The state-variable filter's coefficients with their derivatives, and its unrolling over a vector of time.
#pragma once

#include <cmath>
#include <cstring>
#include "simd.hpp"

namespace {

constexpr int ENTRIES = 9;   // of a state space: A by rows, B, C, D
constexpr int CONTROLS = 5;  // of a filter: cutoff, damping, mix of low-, band- and high-pass
constexpr double CUTOFF_LIMIT = 16.0, DAMPING_LEAST = -16.0, DAMPING_MOST = 100.0;  // as in dsp/svf.py

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

    void set(const Dual* entries) {
        for (int e = 0; e < ENTRIES; ++e) space[e] = entries[e].value;
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

// What TILE vectors of samples alone do to a filter's two states, before each sample of their own vector
// (table `ahead`, delay 1: a state knows of the samples before), or to its adjoint's after (`behind`, 0).
template <class S>
inline void responses(const S (&table)[2][2 * Simd<S>::WIDTH], const S* samples, int delay, Vec<S> (&sum)[2][TILE]) {
    constexpr int W = Simd<S>::WIDTH;
    for (int k = 1; k < W; ++k) {
        const Vec<S> t0 = load<S>(table[0] + W - k), t1 = load<S>(table[1] + W - k);
#pragma GCC unroll 8
        for (int v = 0; v < TILE; ++v) {
            const S x = samples[v * W + k - delay];
            sum[0][v] += t0 * x;
            sum[1][v] += t1 * x;
        }
    }
}

}  // namespace
