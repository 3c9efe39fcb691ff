// Any bytes as a page of a hub's listing, or as a Link header: an error, or files whose names stay in their folder.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>
#include <vector>

#include "hub/listing.h"
#include "hub/url.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  std::vector<weir::HubFile> files;
  if (weir::parse_tree_page(text, &files).ok()) {
    for (const weir::HubFile& file : files) {
      if (file.path.find_first_of("/\\") != std::string::npos || file.path.starts_with('.')) std::abort();
      if (file.digest.size() != 40 && file.digest.size() != 64) std::abort();
    }
  }
  weir::next_link(text);
  const weir::Result<weir::Url> url = weir::parse_url(text);
  if (url.ok() && weir::parse_url(url->text()).ok() != true) std::abort();
  return 0;
}
