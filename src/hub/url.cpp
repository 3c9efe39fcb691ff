#include "hub/url.h"

#include <algorithm>

namespace weir {
namespace {

bool has_control_or_space(std::string_view text) {
  return std::any_of(text.begin(), text.end(),
                     [](char c) { return static_cast<unsigned char>(c) <= 0x20 || c == 0x7f; });
}

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return out;
}

bool valid_port(std::string_view port) {
  return !port.empty() && port.size() <= 5 &&
         std::all_of(port.begin(), port.end(), [](char c) { return c >= '0' && c <= '9'; }) &&
         std::stoi(std::string(port)) <= 65535;
}

std::string_view own_port(bool tls) {
  return tls ? "443" : "80";
}

}  // namespace

std::string Url::authority() const {
  const std::string name = host.find(':') == std::string::npos ? host : "[" + host + "]";
  return port == own_port(tls) ? name : name + ":" + port;
}

std::string Url::text() const {
  return (tls ? "https://" : "http://") + authority() + target;
}

Result<Url> parse_url(std::string_view text) {
  const auto bad = [&](std::string_view why) {
    return make_error(ErrorCode::kInvalidArgument, "\"{}\" is not a URL that is fetched: {}", text.substr(0, 200), why);
  };
  if (has_control_or_space(text)) return bad("it holds a space or control character");
  Url url;
  std::string_view rest = text;
  if (lower(rest.substr(0, 8)) == "https://") {
    url.tls = true;
    rest.remove_prefix(8);
  } else if (lower(rest.substr(0, 7)) == "http://") {
    rest.remove_prefix(7);
  } else {
    return bad("it must start with https:// or http://");
  }
  rest = rest.substr(0, rest.find('#'));
  const size_t path = rest.find_first_of("/?");
  std::string_view authority = rest.substr(0, path);
  url.target = path == std::string_view::npos ? "/" : std::string(rest.substr(path));
  if (url.target.front() == '?') url.target.insert(0, "/");
  if (authority.find('@') != std::string_view::npos) return bad("it holds user information");
  size_t port_at = authority.rfind(':');
  if (authority.starts_with('[')) {
    const size_t close = authority.find(']');
    if (close == std::string_view::npos) return bad("an unclosed bracket");
    url.host = lower(authority.substr(1, close - 1));
    port_at = authority.find(':', close);
    if (port_at == std::string_view::npos && close + 1 != authority.size()) return bad("text behind a bracket");
  } else {
    url.host = lower(authority.substr(0, port_at));
  }
  url.port = port_at == std::string_view::npos ? own_port(url.tls) : authority.substr(port_at + 1);
  if (url.host.empty() || !valid_port(url.port)) return bad("no host, or not a port");
  if (url.host.find_first_of("[]\\\"<>^`{|}") != std::string::npos)
    return bad("a host with characters that no name has");
  return url;
}

Result<Url> resolve_location(const Url& base, std::string_view location) {
  if (location.starts_with('/') && !location.starts_with("//")) {
    if (has_control_or_space(location)) return make_error(ErrorCode::kCorrupt, "a redirect with control characters");
    Url url = base;
    url.target = std::string(location.substr(0, location.find('#')));
    return url;
  }
  WEIR_ASSIGN_OR_RETURN(Url url, parse_url(location));
  if (base.tls && !url.tls) {
    return make_error(ErrorCode::kCorrupt, "{} redirects to {}, which is not encrypted", base.authority(),
                      url.authority());
  }
  return url;
}

std::string encode_path(std::string_view path, bool encode_slash) {
  constexpr std::string_view kHex = "0123456789ABCDEF";
  std::string out;
  for (const char c : path) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
                       c == '.' || c == '_' || c == '~' || (c == '/' && !encode_slash);
    if (plain) {
      out += c;
    } else {
      const auto byte = static_cast<unsigned char>(c);
      out += '%';
      out += kHex[byte >> 4];
      out += kHex[byte & 15u];
    }
  }
  return out;
}

}  // namespace weir
