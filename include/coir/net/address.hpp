// coir/net/address.hpp: an IP address and a port, parsed and printed.
//
//   coir::net::address where("127.0.0.1", 7000);
//   auto same = coir::net::address::parse("[::1]:7000");   same.to_string() == "[::1]:7000"
//                                                              [tests/net/address_test.cpp]
//
// Shape    a value of 28 bytes: what the kernel takes. IPv4, or IPv6 with an optional scope ("%eth0", "%2").
// Thread   any.
// Errors   std::invalid_argument, which quotes the input. Names are not looked up here.
// Cost     parsing allocates nothing.
// See      coir/net/tcp.hpp
#pragma once

#include <netinet/in.h>

#include <cstdint>
#include <string>
#include <string_view>

struct sockaddr;

namespace coir::net {

class address {
 public:
  // Any IPv4 address, port 0.
  address() noexcept;
  // `host` is numeric: "127.0.0.1", "::1", "fe80::1%eth0", also "[::1]".
  address(std::string_view host, std::uint16_t port);
  // "127.0.0.1:80", "[::1]:80".
  static address parse(std::string_view text);
  static address any_v4(std::uint16_t port) noexcept;
  static address any_v6(std::uint16_t port) noexcept;
  // From the kernel. Throws std::invalid_argument for another family.
  static address from(const sockaddr& raw, unsigned bytes);

  bool is_v4() const noexcept { return raw_.v4.sin_family == AF_INET; }
  bool is_v6() const noexcept { return raw_.v4.sin_family == AF_INET6; }
  std::uint16_t port() const noexcept;
  address with_port(std::uint16_t port) const noexcept;
  // Without the port.
  std::string host() const;
  // As parse() takes it.
  std::string to_string() const;

  const sockaddr* raw() const noexcept;
  unsigned raw_bytes() const noexcept;

  friend bool operator==(const address& a, const address& b) noexcept;

 private:
  static address parse_host(std::string_view host, std::uint16_t port, std::string_view whole);

  // The longest first: raw_{} clears that one, and with it all bytes.
  union storage {
    sockaddr_in6 v6;
    sockaddr_in v4;
  } raw_;
};

}  // namespace coir::net
