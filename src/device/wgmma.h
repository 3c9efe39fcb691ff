// For kernel files of Hopper: matrix products of a warpgroup (four warps, aligned), D[64, N] += A[64, 16] B[16, N],
// operands of 16 bits (bf16 or f16; of 8 bits: below) and float32 sums. A comes from registers: warp w holds rows 16 w
// .. 16 w + 15, each lane as in mma.h. B lies in shared memory as N rows of K, 128 bytes (64 k) a row and rows
// following each other, the 16-byte parts of a row exchanged: part p of row r stands at p ^ (r % 8), counted from a
// multiple of 1,024 bytes. D: d[4 j + 0, 1] = row g, columns 8 j + 2 t, + 1; d[4 j + 2, 3] = row g + 8.
//
// Of e4m3 codes, D[64, N] += A[64, 32] B[32, N]: a[0] = row g, k 4 t .. 4 t + 3; a[1] = row g + 8, the same; a[2], a[3]
// = the same rows, k + 16. B is as many bytes, so 128 k a row. Sums are float32, but about 14 bits of them are kept
// while terms are added.
#pragma once

#include "device/kernel.h"

namespace weir::device {

// Registers of this thread are ready to be read by the products that follow.
WEIR_DEVICE void wgmma_fence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
WEIR_DEVICE void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
// Waits until at most `kLeft` groups of this warpgroup are under way.
template <int kLeft>
WEIR_DEVICE void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kLeft) : "memory");
}
// After a wait: the compiler reads these registers no earlier.
template <int kCount>
WEIR_DEVICE void wgmma_settle(float (&d)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

// How many registers each thread of a warpgroup has from here on; all its warps call it.
template <int kRegisters>
WEIR_DEVICE void more_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
WEIR_DEVICE void fewer_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// Names B at a shared address: groups of 8 rows are 1,024 bytes apart. 32 bytes of k further within a row: + 2.
WEIR_DEVICE uint64_t wgmma_columns(uint32_t address) {
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62;
  constexpr uint64_t kGroupBytes = uint64_t{1024 / 16} << 32;
  constexpr uint64_t kUnused = uint64_t{1} << 16;  // the distance of groups along K: there is one
  return kSwizzle128 | kGroupBytes | kUnused | ((address & 0x3ffffU) >> 4);
}

enum WgmmaType { kWgmmaBf16, kWgmmaF16, kWgmmaE4m3 };

// d = a * columns + (add ? d : 0). The registers of `a` and `d` stay untouched until a wait.
template <WgmmaType kType, int kColumns>
WEIR_DEVICE void wgmma(float (&d)[kColumns / 2], const uint32_t (&a)[4], uint64_t columns, bool add);

#define WEIR_D8(i)                                                                                            \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), \
      "+f"(d[i + 7])
#define WEIR_D32(i) WEIR_D8(i), WEIR_D8(i + 8), WEIR_D8(i + 16), WEIR_D8(i + 24)
#define WEIR_A "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(columns), "r"(static_cast<int>(add))

#define WEIR_WGMMA_16(type, k, operands, transposed)                                                    \
  template <>                                                                                           \
  WEIR_DEVICE void wgmma<type, 16>(float (&d)[8], const uint32_t (&a)[4], uint64_t columns, bool add) { \
    asm volatile(                                                                                       \
        "{\n.reg .pred p;\nsetp.ne.b32 p, %13, 0;\n"                                                    \
        "wgmma.mma_async.sync.aligned.m64n16" k ".f32." operands "." operands                           \
        " {"                                                                                            \
        "%0, %1, %2, %3, %4, %5, %6, %7}, "                                                             \
        "{%8, %9, %10, %11}, %12, p, 1, 1" transposed ";\n}"                                            \
        : WEIR_D8(0)                                                                                    \
        : WEIR_A);                                                                                      \
  }
#define WEIR_WGMMA_32(type, k, operands, transposed)                                                     \
  template <>                                                                                            \
  WEIR_DEVICE void wgmma<type, 32>(float (&d)[16], const uint32_t (&a)[4], uint64_t columns, bool add) { \
    asm volatile(                                                                                        \
        "{\n.reg .pred p;\nsetp.ne.b32 p, %21, 0;\n"                                                     \
        "wgmma.mma_async.sync.aligned.m64n32" k ".f32." operands "." operands                            \
        " {"                                                                                             \
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, "                        \
        "{%16, %17, %18, %19}, %20, p, 1, 1" transposed ";\n}"                                           \
        : WEIR_D8(0), WEIR_D8(8)                                                                         \
        : WEIR_A);                                                                                       \
  }
#define WEIR_WGMMA_64(type, k, operands, transposed)                                                     \
  template <>                                                                                            \
  WEIR_DEVICE void wgmma<type, 64>(float (&d)[32], const uint32_t (&a)[4], uint64_t columns, bool add) { \
    asm volatile(                                                                                        \
        "{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"                                                     \
        "wgmma.mma_async.sync.aligned.m64n64" k ".f32." operands "." operands                            \
        " {"                                                                                             \
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                         \
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "              \
        "{%32, %33, %34, %35}, %36, p, 1, 1" transposed ";\n}"                                           \
        : WEIR_D32(0)                                                                                    \
        : WEIR_A);                                                                                       \
  }
#define WEIR_WGMMA_128(type, k, operands, transposed)                                                     \
  template <>                                                                                             \
  WEIR_DEVICE void wgmma<type, 128>(float (&d)[64], const uint32_t (&a)[4], uint64_t columns, bool add) { \
    asm volatile(                                                                                         \
        "{\n.reg .pred p;\nsetp.ne.b32 p, %69, 0;\n"                                                      \
        "wgmma.mma_async.sync.aligned.m64n128" k ".f32." operands "." operands                            \
        " {"                                                                                              \
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                          \
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "                \
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "                \
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "               \
        "{%64, %65, %66, %67}, %68, p, 1, 1" transposed ";\n}"                                            \
        : WEIR_D32(0), WEIR_D32(32)                                                                       \
        : WEIR_A);                                                                                        \
  }

#define WEIR_WGMMA(type, k, operands, transposed) \
  WEIR_WGMMA_16(type, k, operands, transposed)    \
  WEIR_WGMMA_32(type, k, operands, transposed)    \
  WEIR_WGMMA_64(type, k, operands, transposed)    \
  WEIR_WGMMA_128(type, k, operands, transposed)

// Whether B is transposed is said of 16-bit types alone.
WEIR_WGMMA(kWgmmaBf16, "k16", "bf16", ", 0")
WEIR_WGMMA(kWgmmaF16, "k16", "f16", ", 0")
WEIR_WGMMA(kWgmmaE4m3, "k32", "e4m3", "")

// B as rows of K: 16 rows of 128 bytes (64 columns), groups of 8 rows 1,024 bytes apart, parts exchanged as above; the
// next 64 columns `apart` bytes further. 16 k further: 2,048 bytes.
WEIR_DEVICE uint64_t wgmma_rows(uint32_t address, uint32_t apart) {
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62;
  constexpr uint64_t kGroupBytes = uint64_t{1024 / 16} << 32;
  return kSwizzle128 | kGroupBytes | uint64_t{apart / 16} << 16 | ((address & 0x3ffffU) >> 4);
}
// d[64, 128] += a * rows, operands f16.
WEIR_DEVICE void wgmma_rows_f16(float (&d)[64], const uint32_t (&a)[4], uint64_t rows) {
  asm volatile(
      "{\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
      "{%64, %65, %66, %67}, %68, 1, 1, 1, 1;\n}"
      : WEIR_D32(0), WEIR_D32(32)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(rows));
}

#undef WEIR_WGMMA
#undef WEIR_WGMMA_128
#undef WEIR_WGMMA_64
#undef WEIR_WGMMA_32
#undef WEIR_WGMMA_16
#undef WEIR_A
#undef WEIR_D32
#undef WEIR_D8

}  // namespace weir::device
