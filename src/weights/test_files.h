// For tests: safetensors files made on the spot, right or wrong.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tensor/dtype.h"
#include "tensor/shape.h"

namespace weir {

struct TestTensor {
  std::string name;
  DType dtype = DType::kF32;
  Shape shape;
  std::string bytes;  // filled with a pattern when empty
};

// A folder that is removed at the end of its life.
class TestFolder {
 public:
  TestFolder();
  ~TestFolder();
  TestFolder(const TestFolder&) = delete;
  TestFolder& operator=(const TestFolder&) = delete;
  const std::string& path() const { return path_; }
  std::string file(std::string_view name) const { return path_ + "/" + std::string(name); }
  void write(std::string_view name, std::string_view content) const;

 private:
  std::string path_;
};

// Header length, header text and data as a file's bytes.
std::string safetensors_bytes(std::string_view header, std::string_view data);
// A well-formed file of the tensors, in order.
std::string safetensors_file(const std::vector<TestTensor>& tensors);

// Little-endian bytes of values.
std::string bf16_bytes(const std::vector<float>& values);
std::string f32_bytes(const std::vector<float>& values);

}  // namespace weir
