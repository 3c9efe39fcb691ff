#include "weights/test_files.h"

#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "base/check.h"
#include "tensor/bf16.h"

namespace weir {

TestFolder::TestFolder() {
  std::string name = (std::filesystem::temp_directory_path() / "weir-test-XXXXXX").string();
  WEIR_CHECK(::mkdtemp(name.data()) != nullptr, "{}", name);
  path_ = name;
}

TestFolder::~TestFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

void TestFolder::write(std::string_view name, std::string_view content) const {
  std::ofstream out(file(name), std::ios::binary);
  out.write(content.data(), static_cast<std::streamsize>(content.size()));
  WEIR_CHECK(out.good(), "{}", file(name));
}

std::string safetensors_bytes(std::string_view header, std::string_view data) {
  const uint64_t length = header.size();
  std::string file(sizeof(length), '\0');
  std::memcpy(file.data(), &length, sizeof(length));
  return file.append(header).append(data);
}

std::string safetensors_file(const std::vector<TestTensor>& tensors) {
  std::string header = "{\"__metadata__\":{\"format\":\"pt\"}";
  std::string data;
  for (const TestTensor& tensor : tensors) {
    const auto bytes = static_cast<size_t>(tensor.shape.elements() * dtype_bytes(tensor.dtype));
    std::string content = tensor.bytes;
    for (size_t i = 0; content.size() < bytes; ++i) content.push_back(static_cast<char>(i * 7 % 61));
    header += fmt::format(",\"{}\":{{\"dtype\":\"{}\",\"shape\":{},\"data_offsets\":[{},{}]}}", tensor.name,
                          dtype_name(tensor.dtype), tensor.shape.text(), data.size(), data.size() + content.size());
    data += content;
  }
  return safetensors_bytes(header + "}", data);
}

std::string bf16_bytes(const std::vector<float>& values) {
  std::string bytes;
  for (const float value : values) {
    const uint16_t bits = float_to_bf16(value);
    bytes.append(reinterpret_cast<const char*>(&bits), sizeof(bits));
  }
  return bytes;
}

std::string f32_bytes(const std::vector<float>& values) {
  return std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
}

}  // namespace weir
