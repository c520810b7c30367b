// One vector type per instruction set on the GCC/Clang vector extension; intrinsics only where the
// extension has no operation for it (masked loads and stores, max, scaling by 2^n, half
// conversions). Included inside the namespace of one instruction set, with GAAL_AVX512, GAAL_AVX2
// or neither defined. No inline function of the standard library may be used here or in
// kernels_impl.h: the linker keeps one copy for the whole module, which could then be the AVX-512
// one on a machine without it.

#if defined(GAAL_AVX512)
constexpr int kBytes = 64;
#elif defined(GAAL_AVX2)
constexpr int kBytes = 32;
#else
constexpr int kBytes = 16;
#endif
constexpr int kLanes = kBytes / 4;
// Vectors that go through a long chain of operations side by side. With four the registers spill,
// which takes longer than one vector at a time.
constexpr int kTogether = 2;

typedef float vf __attribute__((vector_size(kBytes)));
typedef int32_t vi __attribute__((vector_size(kBytes)));
typedef uint32_t vu __attribute__((vector_size(kBytes)));
typedef double vd __attribute__((vector_size(kBytes)));
typedef float vf_half __attribute__((vector_size(kBytes / 2)));  // as many lanes as vd
typedef uint16_t vu16 __attribute__((vector_size(kBytes / 2)));  // as many lanes as vf

template <class To, class From>
inline To bit_cast(const From& from) {
  static_assert(sizeof(To) == sizeof(From), "same size");
  To to;
  __builtin_memcpy(&to, &from, sizeof(To));
  return to;
}

inline vf splat(float x) { return x - vf{}; }  // x - (+0) keeps the sign of -0 and any NaN
inline vd splat_double(double x) { return x - vd{}; }

template <class V>
inline V load_raw(const void* p) {
  V v;
  __builtin_memcpy(&v, p, sizeof(V));
  return v;
}

// a > b ? a : b, so b where either is NaN.
inline vf max_or_second(vf a, vf b) {
#if defined(GAAL_AVX512)
  return (vf)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(GAAL_AVX2)
  return (vf)_mm256_max_ps((__m256)a, (__m256)b);
#else
  return a > b ? a : b;
#endif
}

// --- 16-bit formats ---

inline vf from_bits(vu16 bits, bfloat16) {
  return bit_cast<vf>(__builtin_convertvector(bits, vu) << 16);
}

inline vu16 to_bits(vf x, bfloat16) {
  const vu u = bit_cast<vu>(x);
  // Nearest, ties to even. A NaN stays one: it comes from 16 bits or from the processor, with a low
  // half of zeros that no carry leaves.
  return __builtin_convertvector((u + 0x7fffu + ((u >> 16) & 1u)) >> 16, vu16);
}

inline vf from_bits(vu16 bits, float16) {
#if defined(GAAL_AVX512)
  return (vf)_mm512_cvtph_ps((__m256i)bits);
#elif defined(GAAL_AVX2)
  return (vf)_mm256_cvtph_ps((__m128i)bits);
#else
  const vu u = __builtin_convertvector(bits, vu);
  const vu magnitude = (u & 0x7fffu) << 13;
  // Shifting leaves the exponent 112 too small; the product repairs it, and normalizes subnormals
  // on the way.
  const vf finite = bit_cast<vf>(magnitude) * 0x1p112f;
  const vf special = bit_cast<vf>(magnitude | 0x7f800000u);
  const vf value = (u & 0x7c00u) == 0x7c00u ? special : finite;
  return bit_cast<vf>(bit_cast<vu>(value) | ((u & 0x8000u) << 16));
#endif
}

inline vu16 to_bits(vf x, float16) {
#if defined(GAAL_AVX512)
  return (vu16)_mm512_cvtps_ph((__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#elif defined(GAAL_AVX2)
  return (vu16)_mm256_cvtps_ph((__m256)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
  const vu u = bit_cast<vu>(x);
  const vu magnitude = u & 0x7fffffffu;
  const vu normal = (magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  // 0.5 has the spacing of a subnormal half as its last place, so the addition itself rounds to
  // nearest even.
  const vu subnormal = bit_cast<vu>(bit_cast<vf>(magnitude) + 0.5f) - 0x3f000000u;
  vu half = magnitude < 0x38800000u ? subnormal : normal;
  half = magnitude >= 0x47800000u ? (vu{} + 0x7c00u) : half;
  half = magnitude > 0x7f800000u ? (vu{} + 0x7e00u) : half;
  return __builtin_convertvector(half | ((u & 0x80000000u) >> 16), vu16);
#endif
}

// --- loads and stores ---

inline vf load(const float* p) { return load_raw<vf>(p); }
inline void store(float* p, vf v) { __builtin_memcpy(p, &v, sizeof(v)); }
template <class Half>
inline vf load(const Half* p) {
  return from_bits(load_raw<vu16>(p), Half{});
}
template <class Half>
inline void store(Half* p, vf v) {
  const vu16 bits = to_bits(v, Half{});
  __builtin_memcpy(p, &bits, sizeof(bits));
}

#if defined(GAAL_AVX2)
inline __m256i lane_mask(int count) {
  const vi lanes = {0, 1, 2, 3, 4, 5, 6, 7};
  return (__m256i)(lanes < count);
}
#endif

// Prefetches the N vectors at p, which need not be readable.
template <int N, class T>
inline void prefetch(const T* p) {
  constexpr size_t kLine = 64;
  for (size_t byte = 0; byte < N * kLanes * sizeof(T); byte += kLine)
    __builtin_prefetch((const char*)p + byte);
}

// The first `count` (< kLanes) lanes from p, the rest `fill`. Nothing past p[count - 1] is touched.
inline vf load_tail(const float* p, int count, float fill) {
#if defined(GAAL_AVX512)
  return (vf)_mm512_mask_loadu_ps((__m512)splat(fill), (__mmask16)((1u << count) - 1u), p);
#elif defined(GAAL_AVX2)
  const __m256i mask = lane_mask(count);
  return (vf)_mm256_blendv_ps((__m256)splat(fill), _mm256_maskload_ps(p, mask),
                              _mm256_castsi256_ps(mask));
#else
  vf v = splat(fill);
  for (int i = 0; i < count; ++i) v[i] = p[i];
  return v;
#endif
}
inline void store_tail(float* p, vf v, int count) {
#if defined(GAAL_AVX512)
  _mm512_mask_storeu_ps(p, (__mmask16)((1u << count) - 1u), (__m512)v);
#elif defined(GAAL_AVX2)
  _mm256_maskstore_ps(p, lane_mask(count), (__m256)v);
#else
  for (int i = 0; i < count; ++i) p[i] = v[i];
#endif
}
template <class Half>
inline vf load_tail(const Half* p, int count, float fill) {
  const vu16 fill_bits = to_bits(splat(fill), Half{});
#if defined(GAAL_AVX512)
  return from_bits(
      (vu16)_mm256_mask_loadu_epi16((__m256i)fill_bits, (__mmask16)((1u << count) - 1u), p),
      Half{});
#else
  vu16 bits = fill_bits;
  __builtin_memcpy(&bits, p, sizeof(Half) * (size_t)count);
  return from_bits(bits, Half{});
#endif
}
template <class Half>
inline void store_tail(Half* p, vf v, int count) {
  const vu16 bits = to_bits(v, Half{});
#if defined(GAAL_AVX512)
  _mm256_mask_storeu_epi16(p, (__mmask16)((1u << count) - 1u), (__m256i)bits);
#else
  __builtin_memcpy(p, &bits, sizeof(Half) * (size_t)count);
#endif
}

#if defined(GAAL_AVX512) || defined(GAAL_AVX2)
// a - b c, rounded once whatever the compiler makes of other products.
inline vf subtract_product(vf a, vf b, float c) {
#if defined(GAAL_AVX512)
  return (vf)_mm512_fnmadd_ps((__m512)b, _mm512_set1_ps(c), (__m512)a);
#else
  return (vf)_mm256_fnmadd_ps((__m256)b, _mm256_set1_ps(c), (__m256)a);
#endif
}
#endif

// --- conditions on lanes ---

#if defined(GAAL_AVX512)
using vmask = __mmask16;
inline vmask is_zero(vf x) { return _mm512_cmpeq_ps_mask((__m512)x, _mm512_setzero_ps()); }
inline vi count_if(vmask m, vi n) {
  return (vi)_mm512_mask_add_epi32((__m512i)n, m, (__m512i)n, _mm512_set1_epi32(1));
}
inline vf add_unless(vmask m, vf a, vf b) {
  return (vf)_mm512_mask_add_ps((__m512)a, _knot_mask16(m), (__m512)a, (__m512)b);
}
#else
using vmask = vi;
inline vmask is_zero(vf x) { return x == 0.0f; }
inline vi count_if(vmask m, vi n) { return n - m; }
inline vf add_unless(vmask m, vf a, vf b) { return a + bit_cast<vf>(bit_cast<vi>(b) & ~m); }
#endif

// --- reductions over lanes, always in the same tree ---

template <int N>
inline double tree_sum(const double* a) {
  if constexpr (N == 1) {
    return a[0];
  } else {
    double b[N / 2];
    for (int i = 0; i < N / 2; ++i) b[i] = a[i] + a[i + N / 2];
    return tree_sum<N / 2>(b);
  }
}
inline double sum_lanes(vd v) {
  double a[kBytes / 8];
  __builtin_memcpy(a, &v, sizeof(v));
  return tree_sum<kBytes / 8>(a);
}
inline void widen(vf v, vd& low, vd& high) {
#if defined(GAAL_AVX512)
  low = (vd)_mm512_cvtps_pd(_mm512_castps512_ps256((__m512)v));
  high = (vd)_mm512_cvtps_pd(_mm512_extractf32x8_ps((__m512)v, 1));
#elif defined(GAAL_AVX2)
  low = (vd)_mm256_cvtps_pd(_mm256_castps256_ps128((__m256)v));
  high = (vd)_mm256_cvtps_pd(_mm256_extractf128_ps((__m256)v, 1));
#else
  vf_half halves[2];
  __builtin_memcpy(halves, &v, sizeof(v));
  low = __builtin_convertvector(halves[0], vd);
  high = __builtin_convertvector(halves[1], vd);
#endif
}
inline vf narrow(vd low, vd high) {
  const vf_half halves[2] = {__builtin_convertvector(low, vf_half),
                             __builtin_convertvector(high, vf_half)};
  return bit_cast<vf>(halves);
}
// widen() from memory; for float32 the conversion takes its operand from there and needs no
// shuffle.
inline void load_wide(const float* p, vd& low, vd& high) {
#if defined(GAAL_AVX512)
  low = (vd)_mm512_cvtps_pd(_mm256_loadu_ps(p));
  high = (vd)_mm512_cvtps_pd(_mm256_loadu_ps(p + 8));
#elif defined(GAAL_AVX2)
  low = (vd)_mm256_cvtps_pd(_mm_loadu_ps(p));
  high = (vd)_mm256_cvtps_pd(_mm_loadu_ps(p + 4));
#else
  widen(load(p), low, high);
#endif
}
template <class Half>
inline void load_wide(const Half* p, vd& low, vd& high) {
  widen(load(p), low, high);
}
inline double sum_lanes(vf v) {
  vd low, high;
  widen(v, low, high);
  return sum_lanes(low + high);
}
template <int N>
inline float tree_max(const float* a) {
  if constexpr (N == 1) {
    return a[0];
  } else {
    float b[N / 2];
    for (int i = 0; i < N / 2; ++i) b[i] = a[i] > a[i + N / 2] ? a[i] : a[i + N / 2];
    return tree_max<N / 2>(b);
  }
}
inline float max_lanes(vf v) {
#if defined(GAAL_AVX512)
  return _mm512_reduce_max_ps((__m512)v);
#else
  float a[kLanes];
  __builtin_memcpy(a, &v, sizeof(v));
  return tree_max<kLanes>(a);
#endif
}

// --- exp ---

// Below it e^x rounds to zero. With x clamped to it, x e^x stays finite for x = -inf.
constexpr float kExpFloor = -104.0f;

// e^x for kExpFloor <= x <= 0 (NaN stays NaN), within 1 ulp over the whole range, subnormal results
// included, from x = n ln2 + r with |r| <= ln2 / 2.
//
// Takes several vectors at once, each step for all of them before the next step: in a chain as long
// as this one, most operations wait for the one before.
template <int N>
inline void exp_nonpositive(const vf (&x)[N], vf (&e)[N]) {
  const float magic = 0x1.8p23f;  // adding it rounds to an integer, which then sits in the low bits
  vf n[N], r[N], p[N];
#define GAAL_EACH for (int i = 0; i < N; ++i)
  GAAL_EACH n[i] = x[i] * 0x1.715476p+0f + magic;
#if !defined(GAAL_AVX512)
  vi whole[N];
  GAAL_EACH whole[i] = bit_cast<vi>(n[i]) - bit_cast<vi>(splat(magic));
#endif
  GAAL_EACH n[i] = n[i] - magic;
#if defined(GAAL_AVX512) || defined(GAAL_AVX2)
  // A fused multiply-add rounds once, and ln2 in float32 is right to 2e-9: 2e-9 |n| of e^x.
  GAAL_EACH r[i] = subtract_product(x[i], n[i], 0x1.62e43p-1f);
#else
  // The high part of ln2 has so few bits that n * high is exact.
  GAAL_EACH r[i] = x[i] - n[i] * 0x1.63p-1f;
  GAAL_EACH r[i] = r[i] - n[i] * -0x1.bd0106p-13f;
#endif
  // Minimax fit of (e^r - 1 - r) / r^2, coefficients rounded to float32 one after another: relative
  // error of e^r 3.2e-9.
  GAAL_EACH p[i] = r[i] * 0x1.6a4d6p-10f + 0x1.12398ep-7f;
  GAAL_EACH p[i] = p[i] * r[i] + 0x1.5558bp-5f;
  GAAL_EACH p[i] = p[i] * r[i] + 0x1.555492p-3f;
  GAAL_EACH p[i] = p[i] * r[i] + 0x1.fffffcp-2f;
  GAAL_EACH p[i] = p[i] * r[i];
  GAAL_EACH p[i] = p[i] * r[i] + r[i];
  GAAL_EACH p[i] = p[i] + 1.0f;
#if defined(GAAL_AVX512)
  GAAL_EACH e[i] = (vf)_mm512_scalef_ps((__m512)p[i], (__m512)n[i]);
#else
  // 2^n in two factors, both normal numbers: only the last product rounds.
  GAAL_EACH e[i] = p[i] * bit_cast<vf>(((whole[i] >> 1) + 127) << 23);
  GAAL_EACH e[i] = e[i] * bit_cast<vf>((whole[i] - (whole[i] >> 1) + 127) << 23);
#endif
#undef GAAL_EACH
}
