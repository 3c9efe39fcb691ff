// For kernel files of Hopper: matrix products of a warpgroup (four warps, aligned), D[64, N] += A[64, 16] B[16, N],
// operands of 16 bits (bf16 or f16) and float32 sums. A comes from registers: warp w holds rows 16 w .. 16 w + 15, each
// lane as in mma.h. B lies in shared memory as N rows of K, 128 bytes (64 k) a row and rows following each other, the
// 16-byte parts of a row exchanged: part p of row r stands at p ^ (r % 8), counted from a multiple of 1,024 bytes. D:
// d[4 j + 0, 1] = row g, columns 8 j + 2 t, + 1; d[4 j + 2, 3] = row g + 8.
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

// Names B at a shared address: groups of 8 rows are 1,024 bytes apart. 16 k further within the 64 of a row: + 2.
WEIR_DEVICE uint64_t wgmma_columns(uint32_t address) {
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62;
  constexpr uint64_t kGroupBytes = uint64_t{1024 / 16} << 32;
  constexpr uint64_t kUnused = uint64_t{1} << 16;  // the distance of groups along K: there is one
  return kSwizzle128 | kGroupBytes | kUnused | ((address & 0x3ffffU) >> 4);
}

// d = a * columns + (add ? d : 0), operands f16 or bf16; 16 to 160 columns, in steps of 16. The registers of `a` and
// `d` stay untouched until a wait.
template <bool kF16, int kColumns>
WEIR_DEVICE void wgmma(float (&d)[kColumns / 2], const uint32_t (&a)[4], uint64_t columns, bool add);

#define WEIR_D8(i)                                                                                            \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), \
      "+f"(d[i + 7])
#define WEIR_D16(i) WEIR_D8(i), WEIR_D8(i + 8)
#define WEIR_D32(i) WEIR_D16(i), WEIR_D16(i + 16)
#define WEIR_D64 WEIR_D32(0), WEIR_D32(32)
#define WEIR_A "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(columns), "r"(static_cast<int>(add))
// The names of d's registers, eight at a time.
#define WEIR_N8 "%0, %1, %2, %3, %4, %5, %6, %7"
#define WEIR_N16 WEIR_N8 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define WEIR_N24 WEIR_N16 ", %16, %17, %18, %19, %20, %21, %22, %23"
#define WEIR_N32 WEIR_N24 ", %24, %25, %26, %27, %28, %29, %30, %31"
#define WEIR_N40 WEIR_N32 ", %32, %33, %34, %35, %36, %37, %38, %39"
#define WEIR_N48 WEIR_N40 ", %40, %41, %42, %43, %44, %45, %46, %47"
#define WEIR_N56 WEIR_N48 ", %48, %49, %50, %51, %52, %53, %54, %55"
#define WEIR_N64 WEIR_N56 ", %56, %57, %58, %59, %60, %61, %62, %63"
#define WEIR_N72 WEIR_N64 ", %64, %65, %66, %67, %68, %69, %70, %71"
#define WEIR_N80 WEIR_N72 ", %72, %73, %74, %75, %76, %77, %78, %79"

// `rest`: the names of a's registers, of the columns, and of whether to add.
#define WEIR_WGMMA_OF(half, type, n, sums, names, rest_a, rest_columns, rest_add, ...)                     \
  template <>                                                                                              \
  WEIR_DEVICE void wgmma<half, n>(float (&d)[sums], const uint32_t (&a)[4], uint64_t columns, bool add) {  \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " rest_add ", 0;\nwgmma.mma_async.sync.aligned.m64n" #n \
                 "k16.f32." type "." type " {" names "}, {" rest_a "}, " rest_columns ", p, 1, 1, 0;\n}"   \
                 : __VA_ARGS__                                                                             \
                 : WEIR_A);                                                                                \
  }
#define WEIR_WGMMA(...)                     \
  WEIR_WGMMA_OF(false, "bf16", __VA_ARGS__) \
  WEIR_WGMMA_OF(true, "f16", __VA_ARGS__)

WEIR_WGMMA(16, 8, WEIR_N8, "%8, %9, %10, %11", "%12", "%13", WEIR_D8(0))
WEIR_WGMMA(32, 16, WEIR_N16, "%16, %17, %18, %19", "%20", "%21", WEIR_D16(0))
WEIR_WGMMA(48, 24, WEIR_N24, "%24, %25, %26, %27", "%28", "%29", WEIR_D16(0), WEIR_D8(16))
WEIR_WGMMA(64, 32, WEIR_N32, "%32, %33, %34, %35", "%36", "%37", WEIR_D32(0))
WEIR_WGMMA(80, 40, WEIR_N40, "%40, %41, %42, %43", "%44", "%45", WEIR_D32(0), WEIR_D8(32))
WEIR_WGMMA(96, 48, WEIR_N48, "%48, %49, %50, %51", "%52", "%53", WEIR_D32(0), WEIR_D16(32))
WEIR_WGMMA(112, 56, WEIR_N56, "%56, %57, %58, %59", "%60", "%61", WEIR_D32(0), WEIR_D16(32), WEIR_D8(48))
WEIR_WGMMA(128, 64, WEIR_N64, "%64, %65, %66, %67", "%68", "%69", WEIR_D64)
WEIR_WGMMA(144, 72, WEIR_N72, "%72, %73, %74, %75", "%76", "%77", WEIR_D64, WEIR_D8(64))
WEIR_WGMMA(160, 80, WEIR_N80, "%80, %81, %82, %83", "%84", "%85", WEIR_D64, WEIR_D16(64))

// B as rows of K: 16 rows of 128 bytes (64 columns), groups of 8 rows 1,024 bytes apart, parts exchanged as above; the
// next 64 columns `apart` bytes further. 16 k further: 2,048 bytes.
WEIR_DEVICE uint64_t wgmma_rows(uint32_t address, uint32_t apart) {
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62;
  constexpr uint64_t kGroupBytes = uint64_t{1024 / 16} << 32;
  return kSwizzle128 | kGroupBytes | uint64_t{apart / 16} << 16 | ((address & 0x3ffffU) >> 4);
}
// d[64, 128] += a * rows, operands f16.
WEIR_DEVICE void wgmma_rows_f16(float (&d)[64], const uint32_t (&a)[4], uint64_t rows) {
  asm volatile("{\nwgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 {" WEIR_N64
               "}, {%64, %65, %66, %67}, %68, 1, 1, 1, 1;\n}"
               : WEIR_D64
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(rows));
}

#undef WEIR_WGMMA
#undef WEIR_WGMMA_OF
#undef WEIR_N80
#undef WEIR_N72
#undef WEIR_N64
#undef WEIR_N56
#undef WEIR_N48
#undef WEIR_N40
#undef WEIR_N32
#undef WEIR_N24
#undef WEIR_N16
#undef WEIR_N8
#undef WEIR_A
#undef WEIR_D64
#undef WEIR_D32
#undef WEIR_D16
#undef WEIR_D8

}  // namespace weir::device
