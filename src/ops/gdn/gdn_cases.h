// For tests of the Gated DeltaNet mixer, on any device: a random layer and random rows.
#pragma once

#include <cstdint>

#include "ops/cases.h"
#include "ops/gdn/gdn.h"

namespace weir::gdn_test {

using cases::Floats;

struct Layer {
  explicit Layer(const GdnShape& s)
      : shape(s),
        conv(cases::random_floats(1, s.channels() * kGdnConvWidth, 0.5F)),
        a_log(cases::random_floats(2, s.value_heads, 1.0F)),
        dt_bias(cases::random_floats(3, s.value_heads, 1.0F)),
        norm(cases::random_floats(4, s.value_dim, 1.0F)) {
    // From memories of a few tokens to memories of thousands.
    for (size_t j = 0; j < dt_bias.size(); ++j) dt_bias[j] -= static_cast<float>(2 * (j % 8));
    parameters = make_gdn_parameters(s, view(conv), view(a_log), view(dt_bias), view(norm));
  }
  static VectorView view(const Floats& v) { return {v.data(), static_cast<int64_t>(v.size())}; }
  GdnShape shape;
  Floats conv;
  Floats a_log;
  Floats dt_bias;
  Floats norm;
  GdnParameters parameters;
};

// Rows of a step; a test says which of them are which tokens of which slot.
struct Inputs {
  Inputs(const GdnShape& s, uint64_t seed, int64_t count)
      : rows(count),
        u(cases::random_floats(seed, count * s.channels())),
        z(cases::random_floats(seed + 1, count * s.values())),
        b(cases::random_floats(seed + 2, count * s.value_heads)),
        a(cases::random_floats(seed + 3, count * s.value_heads)) {}
  int64_t rows;
  Floats u;
  Floats z;
  Floats b;
  Floats a;
};

}  // namespace weir::gdn_test
