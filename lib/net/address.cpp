#include <coir/net/address.hpp>

#include <arpa/inet.h>
#include <fmt/format.h>
#include <net/if.h>

#include <charconv>
#include <cstring>
#include <stdexcept>

namespace coir::net {

namespace {

// The longest numeric address with a scope, and its end.
constexpr std::size_t host_bytes = INET6_ADDRSTRLEN + IF_NAMESIZE + 1;

// A zero would end the message early, and a line end would make two of it.
std::string quoted(std::string_view text) {
  std::string safe = "\"";
  for (const char letter : text) {
    if (letter >= ' ' && letter <= '~') {
      safe += letter;
    } else {
      safe += fmt::format("\\x{:02x}", static_cast<unsigned char>(letter));
    }
  }
  return safe + '"';
}

[[noreturn]] void refuse(std::string_view what, std::string_view text) {
  throw std::invalid_argument(fmt::format("{} {}", quoted(text), what));
}

bool is_number(std::string_view text, std::uint32_t& value) noexcept {
  const char* const end = text.data() + text.size();
  const auto parsed = std::from_chars(text.data(), end, value);
  return !text.empty() && parsed.ec == std::errc() && parsed.ptr == end;
}

std::uint32_t scope_of(std::string_view scope, std::string_view host) {
  std::uint32_t index = 0;
  if (is_number(scope, index)) return index;
  char name[IF_NAMESIZE] = {};
  if (scope.empty() || scope.size() >= sizeof name) refuse("has no valid scope behind the %", host);
  std::memcpy(name, scope.data(), scope.size());
  index = ::if_nametoindex(name);
  if (index == 0) refuse("names a network interface that is not there", host);
  return index;
}

}  // namespace

address::address() noexcept : raw_{} { raw_.v4.sin_family = AF_INET; }

address::address(std::string_view host, std::uint16_t port)
    : address(parse_host(host, port, host)) {}

// `whole` is what is quoted when it is refused.
address address::parse_host(std::string_view host, std::uint16_t port, std::string_view whole) {
  constexpr const char* not_numeric = "is not an IPv4 or IPv6 address";
  const bool bracketed = host.size() >= 2 && host.front() == '[' && host.back() == ']';
  if (bracketed) host = host.substr(1, host.size() - 2);
  const std::size_t percent = host.find('%');
  const std::string_view number = host.substr(0, percent);
  char text[INET6_ADDRSTRLEN] = {};
  // A zero inside would end the text early and make a valid address of it.
  if (number.size() >= sizeof text || host.find('\0') != std::string_view::npos) {
    refuse(not_numeric, whole);
  }
  std::memcpy(text, number.data(), number.size());

  address made;
  if (!bracketed && percent == std::string_view::npos &&
      ::inet_pton(AF_INET, text, &made.raw_.v4.sin_addr) == 1) {
    return made.with_port(port);
  }
  made = any_v6(port);
  if (::inet_pton(AF_INET6, text, &made.raw_.v6.sin6_addr) != 1) refuse(not_numeric, whole);
  if (percent != std::string_view::npos) {
    made.raw_.v6.sin6_scope_id = scope_of(host.substr(percent + 1), whole);
  }
  return made;
}

address address::parse(std::string_view text) {
  const std::size_t colon = text.rfind(':');
  const bool only_host = !text.empty() && text.back() == ']';
  if (colon == std::string_view::npos || only_host) {
    refuse("has no port: write host:port or [host]:port", text);
  }
  const std::string_view host = text.substr(0, colon);
  if (host.find(':') != std::string_view::npos && (host.front() != '[' || host.back() != ']')) {
    refuse("is ambiguous: write an IPv6 address and its port as [host]:port", text);
  }
  std::uint32_t port = 0;
  if (!is_number(text.substr(colon + 1), port) || port > 0xffff) {
    refuse("has no port from 0 to 65535", text);
  }
  return parse_host(host, static_cast<std::uint16_t>(port), text);
}

address address::any_v4(std::uint16_t port) noexcept { return address().with_port(port); }

address address::any_v6(std::uint16_t port) noexcept {
  address any;
  any.raw_ = storage{};
  any.raw_.v6.sin6_family = AF_INET6;
  return any.with_port(port);
}

address address::from(const sockaddr& raw, unsigned bytes) {
  address made;
  if (raw.sa_family == AF_INET && bytes >= sizeof(sockaddr_in)) {
    std::memcpy(&made.raw_.v4, &raw, sizeof(sockaddr_in));
  } else if (raw.sa_family == AF_INET6 && bytes >= sizeof(sockaddr_in6)) {
    std::memcpy(&made.raw_.v6, &raw, sizeof(sockaddr_in6));
  } else {
    throw std::invalid_argument(
        fmt::format("a socket address of family {} with {} bytes is neither IPv4 nor IPv6",
                    raw.sa_family, bytes));
  }
  return made;
}

std::uint16_t address::port() const noexcept {
  return ntohs(is_v4() ? raw_.v4.sin_port : raw_.v6.sin6_port);
}

address address::with_port(std::uint16_t port) const noexcept {
  address other = *this;
  (other.is_v4() ? other.raw_.v4.sin_port : other.raw_.v6.sin6_port) = htons(port);
  return other;
}

std::string address::host() const {
  char text[host_bytes] = {};
  if (is_v4()) {
    ::inet_ntop(AF_INET, &raw_.v4.sin_addr, text, sizeof text);
    return text;
  }
  ::inet_ntop(AF_INET6, &raw_.v6.sin6_addr, text, sizeof text);
  if (raw_.v6.sin6_scope_id == 0) return text;
  char name[IF_NAMESIZE] = {};
  if (::if_indextoname(raw_.v6.sin6_scope_id, name) != nullptr) {
    return fmt::format("{}%{}", text, name);
  }
  return fmt::format("{}%{}", text, raw_.v6.sin6_scope_id);
}

std::string address::to_string() const {
  return is_v4() ? fmt::format("{}:{}", host(), port()) : fmt::format("[{}]:{}", host(), port());
}

const sockaddr* address::raw() const noexcept { return reinterpret_cast<const sockaddr*>(&raw_); }

unsigned address::raw_bytes() const noexcept {
  return is_v4() ? sizeof(sockaddr_in) : sizeof(sockaddr_in6);
}

bool operator==(const address& a, const address& b) noexcept {
  if (a.is_v4() != b.is_v4() || a.port() != b.port()) return false;
  if (a.is_v4()) return a.raw_.v4.sin_addr.s_addr == b.raw_.v4.sin_addr.s_addr;
  return std::memcmp(&a.raw_.v6.sin6_addr, &b.raw_.v6.sin6_addr, sizeof(in6_addr)) == 0 &&
         a.raw_.v6.sin6_scope_id == b.raw_.v6.sin6_scope_id;
}

}  // namespace coir::net
