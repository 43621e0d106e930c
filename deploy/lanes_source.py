"""The C++ of `lanes`: casts, and layers over a block of events."""

from __future__ import annotations

#: `@NAME@`s are filled in by `lanes`.
SOURCE = """\
// Made by elsewhere: the project beside it in plain integers, LANES events side by side, to give the same bits.
#include <cmath>
#include <cstdint>
#include <type_traits>

namespace lanes {

constexpr int LANES = 32;
enum Rounding { TRN, TRN_ZERO, RND, RND_CONV };
enum Overflow { WRAP, SAT, SAT_SYM };
#define INLINE static inline __attribute__((always_inline))

template <int W, int S, Overflow O, typename T> INLINE T overflowed(T k) {
    constexpr int64_t most = (int64_t(1) << (W - S)) - 1, least = S ? -most - (O == SAT_SYM ? 0 : 1) : 0;
    if (O == WRAP) {
        typedef typename std::make_unsigned<T>::type U;
        constexpr int spare = 8 * int(sizeof(T)) - W;
        const U raised = U(k) << spare;
        return S ? T(T(raised) >> spare) : T(raised >> spare);
    }
    return k < T(least) ? T(least) : k > T(most) ? T(most) : k;
}

// Into the type W, S of a number with DROP more bits below the point than it has; DROP below 0: fewer.
template <int DROP, int W, int S, Rounding Q, Overflow O> struct Cast {
    template <typename T> INLINE T of(T k) {
        if (DROP <= 0)
            return overflowed<W, S, O, T>(T(k * (T(1) << (DROP < 0 ? -DROP : 0))));
        constexpr int widest = 8 * int(sizeof(T)) - 2, drop = DROP < 1 ? 1 : DROP > widest ? widest : DROP;
        constexpr T half = T(1) << (drop - 1), mask = (T(1) << drop) - 1;
        const T down = k >> drop, rest = k & mask;
        T up = 0;
        if (Q == TRN_ZERO)
            up = T(k < 0) & T(rest != 0);
        else if (Q == RND)
            up = T(rest >= half);
        else if (Q == RND_CONV)
            up = T(rest > half) | (T(rest == half) & (down & T(1)));
        return overflowed<W, S, O, T>(T(down + up));
    }
    // An accumulator of this type after another product.
    template <typename T> INLINE T plus(T sum, T product) { return overflowed<W, S, O, T>(T(sum + of(product))); }
};

// An accumulator that no product can take out of its range, nor bits from.
struct Exact {
    template <typename T> INLINE T plus(T sum, T product) { return sum + product; }
};

template <int F, int W, int S, Rounding Q, Overflow O> struct Input {
    INLINE double whole(double x) {
        const double scaled = x * (F < 0 ? 1.0 / double(int64_t(1) << (F < 0 ? -F : 0)) : double(int64_t(1) << (F < 0 ? 0 : F)));
        const double down = std::floor(scaled);
        if (Q == TRN)
            return down;
        if (Q == TRN_ZERO)
            return std::trunc(scaled);
        if (Q == RND)
            return scaled - down >= 0.5 ? down + 1.0 : down;
        return std::rint(scaled);
    }
    INLINE int64_t of(double x) {
        constexpr int64_t most = (int64_t(1) << (W - S)) - 1, least = S ? -most - (O == SAT_SYM ? 0 : 1) : 0;
        const double k = whole(x);
        if (O == WRAP)  // fmod is exact, so numbers beyond 64 bits wrap as well
            return overflowed<W, S, O, int64_t>(
                int64_t(std::fabs(k) < 4611686018427387904.0 ? k : std::fmod(k, double(int64_t(1) << W))));
        return k < double(least) ? least : k > double(most) ? most : int64_t(k);
    }
};

template <typename T, typename Accum, typename Result, typename In, typename Out>
INLINE void dense(int outputs, const int32_t *end, const int32_t *row, const T *weight, const T *start,
                  const In (*x)[LANES], Out (*y)[LANES]) {
    for (int j = 0; j < outputs; j++) {
        T sum[LANES];
        for (int l = 0; l < LANES; l++)
            sum[l] = start[j];
        for (int32_t k = end[j]; k < end[j + 1]; k++)
            for (int l = 0; l < LANES; l++)
                sum[l] = Accum::template plus<T>(sum[l], T(T(x[row[k]][l]) * weight[k]));
        for (int l = 0; l < LANES; l++)
            y[j][l] = Out(Result::template of<T>(sum[l]));
    }
}

// A product of two variables is added as it is, with what brings sum and product to one fraction; then the sum is cast.
template <typename T, typename Accum, int UP_SUM, int UP_PRODUCT, typename Result, typename A, typename B, typename Out>
INLINE void einsum(int size, const A (*a)[LANES], const B (*b)[LANES], Out (*y)[LANES]) {
    T sum[LANES] = {};
    for (int i = 0; i < size; i++)
        for (int l = 0; l < LANES; l++)
            sum[l] = Accum::template of<T>(
                T(sum[l] * (T(1) << UP_SUM) + T(a[i][l]) * T(b[i][l]) * (T(1) << UP_PRODUCT)));
    for (int l = 0; l < LANES; l++)
        y[0][l] = Out(Result::template of<T>(sum[l]));
}

template <typename T, typename Result, int UP_A, int UP_B, typename A, typename B, typename Out>
INLINE void subtract(int size, const A (*a)[LANES], const B (*b)[LANES], Out (*y)[LANES]) {
    for (int i = 0; i < size; i++)
        for (int l = 0; l < LANES; l++)
            y[i][l] = Out(Result::template of<T>(T(T(a[i][l]) * (T(1) << UP_A) - T(b[i][l]) * (T(1) << UP_B))));
}

template <typename T, typename Result, int UP, typename A, typename Out>
INLINE void relu(int size, const A (*a)[LANES], Out (*y)[LANES]) {
    for (int i = 0; i < size; i++)
        for (int l = 0; l < LANES; l++)
            y[i][l] = Out(Result::template of<T>(a[i][l] > 0 ? T(a[i][l]) : T(0)));
}

template <typename T, typename Result, int UP, typename A, typename Out>
INLINE void linear(int size, const A (*a)[LANES], Out (*y)[LANES]) {
    for (int i = 0; i < size; i++)
        for (int l = 0; l < LANES; l++)
            y[i][l] = Out(Result::template of<T>(T(a[i][l])));
}

@TABLES@
#if defined(__x86_64__) && defined(__linux__)
__attribute__((target_clones("avx2", "default"), flatten))
#endif
void block(const double *events, double *scores, int n) {
@ARRAYS@
    for (int i = 0; i < @N_IN@; i++)
        for (int l = 0; l < LANES; l++)
            @FIRST@[i][l] = l < n ? @INPUT@::of(events[long(l) * @N_IN@ + i]) : 0;
@CALLS@
    for (int l = 0; l < n; l++)
        scores[l] = double(@LAST@[0][l]) * @STEP@;
}

static void score(const double *events, double *scores, long n) {
    for (long i = 0; i < n; i += LANES)
        block(events + i * @N_IN@, scores + i, int(n - i < LANES ? n - i : LANES));
}

} // namespace lanes
"""
