#include <coir/net/address.hpp>

#include "support/catch.hpp"

#include <net/if.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cstring>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>

using coir::net::address;
using namespace std::string_literals;
using namespace std::string_view_literals;

namespace {

// What it was refused with.
template <class Make>
std::string refusal(Make&& make) {
  try {
    const address made = make();
    return "accepted as " + made.to_string();
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
}

// What cannot be printed is quoted as \x and two digits.
bool quotes(const std::string& message, const std::string& input) {
  std::string quoted;
  for (const char letter : input) {
    if (letter == '\0') quoted += "\\x00";
    else if (letter == '\n') quoted += "\\x0a";
    else quoted += letter;
  }
  return message.find('"' + quoted + '"') != std::string::npos;
}

}  // namespace

TEST_CASE("an address is printed as it was parsed") {
  for (const char* const text :
       {"127.0.0.1:7000", "0.0.0.0:0", "255.255.255.255:65535", "[::1]:7000", "[::]:0",
        "[2001:db8::8:800:200c:417a]:80", "[::ffff:192.0.2.1]:1", "[fe80::1%lo]:22",
        "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535"}) {
    INFO(text);
    const address parsed = address::parse(text);
    CHECK(parsed.to_string() == text);
    CHECK(address::parse(parsed.to_string()) == parsed);
    CHECK(address(parsed.host(), parsed.port()) == parsed);
    CHECK(address::from(*parsed.raw(), parsed.raw_bytes()) == parsed);
    CHECK(parsed.is_v4() != parsed.is_v6());
  }
}

TEST_CASE("an IPv6 address is printed in its shortest form") {
  CHECK(address::parse("[2001:0DB8:0:0:0:0:0:1]:80").to_string() == "[2001:db8::1]:80");
  CHECK(address("[::1]", 7).to_string() == "[::1]:7");
  CHECK(address("::1", 7).to_string() == "[::1]:7");
  CHECK(address("::1", 7).host() == "::1");
}

TEST_CASE("a scope is an interface by name or by number") {
  const unsigned loopback = ::if_nametoindex("lo");
  REQUIRE(loopback != 0);
  const address by_name("fe80::1%lo", 1);
  CHECK(by_name == address("fe80::1%" + std::to_string(loopback), 1));
  CHECK(reinterpret_cast<const sockaddr_in6*>(by_name.raw())->sin6_scope_id == loopback);
  CHECK(by_name != address("fe80::1", 1));
  // The number of no interface stays a number.
  CHECK(address("fe80::1%4000000000", 1).to_string() == "[fe80::1%4000000000]:1");
}

TEST_CASE("an address is what the kernel takes") {
  const address v4("192.0.2.7", 513);
  const auto* const raw4 = reinterpret_cast<const sockaddr_in*>(v4.raw());
  CHECK(v4.raw_bytes() == sizeof(sockaddr_in));
  CHECK(raw4->sin_family == AF_INET);
  CHECK(raw4->sin_port == htons(513));
  CHECK(raw4->sin_addr.s_addr == htonl(0xc0000207));
  const address v6("1::2", 513);
  const auto* const raw6 = reinterpret_cast<const sockaddr_in6*>(v6.raw());
  CHECK(v6.raw_bytes() == sizeof(sockaddr_in6));
  CHECK(raw6->sin6_family == AF_INET6);
  CHECK(raw6->sin6_port == htons(513));
  CHECK(raw6->sin6_flowinfo == 0);
  CHECK(raw6->sin6_scope_id == 0);
}

TEST_CASE("any address, and another port") {
  CHECK(address().to_string() == "0.0.0.0:0");
  CHECK(address::any_v4(80).to_string() == "0.0.0.0:80");
  CHECK(address::any_v6(80).to_string() == "[::]:80");
  CHECK(address("::1", 1).with_port(2) == address("::1", 2));
  CHECK(address("::1", 1) != address("::1", 2));
  CHECK(address("0.0.0.0", 1) != address("::", 1));
  CHECK(address("127.0.0.1", 1) != address("127.0.0.2", 1));
}

TEST_CASE("garbage for a host is refused, and quoted") {
  for (const std::string& host :
       {""s, " "s, "localhost"s, "1.2.3"s, "1.2.3.4.5"s, "1.2.3.256"s, "1.2.3.-4"s, "01.2.3.4"s,
        "0x7f.0.0.1"s, "127.1"s, "2130706433"s, " 127.0.0.1"s, "127.0.0.1 "s, "127.0.0.1\n"s,
        "127.0.0.1:80"s, "127.0.0.1%lo"s, "[127.0.0.1]"s, "::1::"s, ":::"s, "1::2::3"s, ":"s,
        "1:2:3:4:5:6:7"s, "1:2:3:4:5:6:7:8:9"s, "12345::"s, "::g"s, "[::1"s, "::1]"s, "[[::1]]"s,
        "[]"s, "["s, "::1%"s, "[::1%]"s, "::1%no-such-interface"s, "::1%seventeen_letters"s,
        "::1%-1"s, "::1% 1"s, "127.0.0.1\0"s, "127.0.0.1\0.evil"s, "::1\0"s, "fe80::1%lo\0"s,
        "fe80::1%lo\0x"s, std::string(1000, '1'), std::string(1000, ':'),
        "fe80::1%" + std::string(1000, 'x')}) {
    INFO(host);
    const std::string said = refusal([&] { return address(host, 80); });
    CHECK(quotes(said, host));
  }
}

TEST_CASE("garbage for a host and port is refused, and quoted as a whole") {
  for (const std::string& text :
       {""s, ":"s, "::"s, ":80"s, "127.0.0.1"s, "127.0.0.1:"s, "127.0.0.1:65536"s,
        "127.0.0.1:-1"s, "127.0.0.1:+1"s, "127.0.0.1:0x50"s, "127.0.0.1: 80"s, "127.0.0.1:80 "s,
        "127.0.0.1:80a"s, "127.0.0.1:99999999999999999999"s, "127.0.0.1:80\0"s,
        "127.0.0.1\0:80"s, "1.2.3:80"s, "1.2.3.4.5:80"s, "::1:80"s, "::1"s, "[::1]"s, "[::1]80"s,
        "[::1]:"s, "[::1]:65536"s, "[::1:80"s, "::1]:80"s, "[]:80"s, "[[::1]]:80"s,
        "[127.0.0.1]:80"s, "[::1]:80:80"s, "localhost:80"s, "[fe80::1%]:80"s,
        "[fe80::1%no-such]:80"s, "]:80"s, "[:80"s, "http://127.0.0.1:80"s, "127.0.0.1:http"s}) {
    INFO(text);
    const std::string said = refusal([&] { return address::parse(text); });
    CHECK(quotes(said, text));
  }
}

TEST_CASE("an address without a port, and one with two meanings, are told what to write") {
  CHECK(refusal([] { return address::parse("127.0.0.1"); }).find("host:port") != std::string::npos);
  CHECK(refusal([] { return address::parse("[::1]"); }).find("has no port") != std::string::npos);
  CHECK(refusal([] { return address::parse("::1:80"); }).find("[host]:port") != std::string::npos);
}

TEST_CASE("a socket address of another family is refused") {
  sockaddr_un local{};
  local.sun_family = AF_UNIX;
  const auto& raw = reinterpret_cast<const sockaddr&>(local);
  CHECK_THROWS_AS(address::from(raw, sizeof local), std::invalid_argument);
  const address v6("::1", 80);
  // Cut short.
  CHECK_THROWS_AS(address::from(*v6.raw(), sizeof(sockaddr_in)), std::invalid_argument);
}

TEST_CASE("what is accepted, whatever it was, is printed so that it parses to the same") {
  std::mt19937 random(42);
  static constexpr std::string_view letters = "0123456789abcdef:::...[]%%lo \0-x"sv;
  unsigned accepted = 0;
  for (int i = 0; i < 30'000; ++i) {
    // Half of them begin as something valid, and are then damaged.
    std::string text;
    if (random() % 2 == 0) {
      static constexpr const char* valid[] = {"127.0.0.1:80", "[::1]:80", "[fe80::1%lo]:1",
                                              "[1:2:3:4:5:6:7:8]:65535"};
      text = valid[random() % std::size(valid)];
      for (auto damage = random() % 3; damage > 0; --damage) {
        const std::size_t at = random() % (text.size() + 1);
        if (random() % 2 == 0 && at < text.size()) text.erase(at, 1);
        else text.insert(at, 1, letters[random() % letters.size()]);
      }
    } else {
      for (auto size = random() % 24; size > 0; --size) {
        text += letters[random() % letters.size()];
      }
    }
    INFO(text);
    try {
      const address made = address::parse(text);
      ++accepted;
      REQUIRE(address::parse(made.to_string()) == made);
    } catch (const std::invalid_argument& error) {
      REQUIRE(quotes(error.what(), text));
    }
  }
  CHECK(accepted > 1000);
}
