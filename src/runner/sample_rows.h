// A step's sample requests as the GPU's sampler takes them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "ops/sample/sample_args.h"
#include "runner/model.h"

namespace weir {

// Whether the GPU samples rows of these parameters. Penalties are counted by the host, which samples such rows itself.
bool gpu_samples(const SamplingParams& params);

// Bytes that the lists of `rows` sequences take at most.
int64_t sample_lists_bytes(int64_t rows);

// Fills rows[i] from requests[i]; rows that are not the device's get -1. Lists are copied to `lists`, memory that the
// GPU reads (page-locked): it must stay as it is until the step has run. Requests of a sequence, which have the same
// params, stand beside each other and share theirs, so sample_lists_bytes of the step's sequences are enough.
void lay_out_samples(std::span<const SampleRequest> requests, GpuSampleRow* rows, std::span<std::byte> lists);

}  // namespace weir
