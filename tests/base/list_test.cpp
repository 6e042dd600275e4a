#include <coir/base/list.hpp>

#include "support/catch.hpp"

#include <cstddef>
#include <utility>
#include <vector>

namespace {

struct element : coir::list_node {
  explicit element(int n) : number(n) {}
  int number;
};

std::vector<int> numbers_in(const coir::list<element>& list) {
  std::vector<int> found;
  list.for_each([&](element& each) { found.push_back(each.number); });
  return found;
}

void empty(coir::list<element>& list) {
  while (!list.empty()) list.pop_front();
}

struct job {
  int number = 0;
  job* next = nullptr;
};
using job_queue = coir::queue<job, &job::next>;

}  // namespace

TEST_CASE("a list gives its elements back in the order in which they came") {
  coir::list<element> waiters;
  element one(1), two(2), three(3);
  CHECK(waiters.empty());
  waiters.push_back(one);
  waiters.push_back(two);
  waiters.push_back(three);
  CHECK(&waiters.front() == &one);
  CHECK(numbers_in(waiters) == std::vector{1, 2, 3});
  CHECK(waiters.pop_front().number == 1);
  CHECK_FALSE(one.linked());
  CHECK(waiters.pop_front().number == 2);
  CHECK(waiters.pop_front().number == 3);
  CHECK(waiters.empty());
}

TEST_CASE("an element leaves its list from the front, the middle and the end, and again without harm") {
  coir::list<element> waiters;
  element one(1), two(2), three(3);
  for (element* each : {&one, &two, &three}) waiters.push_back(*each);
  two.unlink();
  CHECK(numbers_in(waiters) == std::vector{1, 3});
  CHECK_FALSE(two.linked());
  two.unlink();
  CHECK(numbers_in(waiters) == std::vector{1, 3});
  three.unlink();
  one.unlink();
  CHECK(waiters.empty());
  waiters.push_back(two);
  CHECK(numbers_in(waiters) == std::vector{2});
  empty(waiters);
}

TEST_CASE("a visitor may unlink the element it is given, and what is appended meanwhile is visited too") {
  coir::list<element> waiters;
  element one(1), two(2), three(3), late(4);
  for (element* each : {&one, &two, &three}) waiters.push_back(*each);
  std::vector<int> visited;
  waiters.for_each([&](element& each) {
    visited.push_back(each.number);
    each.unlink();
    if (each.number == 2) waiters.push_back(late);
  });
  CHECK(visited == std::vector{1, 2, 3, 4});
  CHECK(waiters.empty());
}

TEST_CASE("an element of a list knows the one behind it, and the last has none") {
  coir::list<element> waiters;
  element one(1), two(2);
  waiters.push_back(one);
  CHECK(waiters.after(one) == nullptr);
  waiters.push_back(two);
  CHECK(waiters.after(one) == &two);
  CHECK(waiters.after(two) == nullptr);
  empty(waiters);
}

TEST_CASE("a spliced list keeps its order behind what was there, and leaves the other empty") {
  coir::list<element> here, there;
  element one(1), two(2), three(3), four(4);
  here.push_back(one);
  here.push_back(two);
  there.push_back(three);
  there.push_back(four);
  here.splice_back(there);
  CHECK(there.empty());
  CHECK(numbers_in(here) == std::vector{1, 2, 3, 4});
  here.splice_back(there);
  CHECK(numbers_in(here) == std::vector{1, 2, 3, 4});
  empty(here);
}

TEST_CASE("a copy of a linked element is in no list, and assigning to one leaves it where it was") {
  coir::list<element> waiters;
  element one(1);
  waiters.push_back(one);
  const element copy(one);
  CHECK_FALSE(copy.linked());
  element other(7);
  one = other;
  CHECK(one.linked());
  CHECK(numbers_in(waiters) == std::vector{7});
  empty(waiters);
}

TEST_CASE("a queue is first in, first out, and push_front goes before all") {
  job_queue queue;
  job one{1}, two{2}, three{3}, first{0};
  CHECK(queue.empty());
  CHECK(queue.front() == nullptr);
  queue.push(one);
  queue.push(two);
  queue.push_front(first);
  queue.push(three);
  std::vector<int> order;
  while (!queue.empty()) order.push_back(queue.pop().number);
  CHECK(order == std::vector{0, 1, 2, 3});
}

TEST_CASE("a queue that ran empty can be filled again, from either end") {
  job_queue queue;
  job one{1}, two{2};
  queue.push(one);
  queue.pop();
  queue.push_front(two);
  queue.push(one);
  CHECK(queue.pop().number == 2);
  CHECK(queue.pop().number == 1);
  CHECK(queue.empty());
  queue.push(two);
  CHECK(queue.front() == &two);
  CHECK(queue.pop().number == 2);
}

TEST_CASE("push_front of a list goes before all, also where there is nothing") {
  coir::list<element> waiters;
  element one(1), two(2), three(3);
  waiters.push_front(two);
  waiters.push_back(three);
  waiters.push_front(one);
  CHECK(numbers_in(waiters) == std::vector{1, 2, 3});
  empty(waiters);
}

TEST_CASE("an element leaves a queue from the front, the middle and the end, and what is not in it does not") {
  for (const std::size_t gone : {0u, 1u, 2u}) {
    job_queue queue;
    job jobs[] = {{1}, {2}, {3}};
    job other{4};
    for (job& each : jobs) queue.push(each);
    CHECK_FALSE(queue.remove(other));
    CHECK(queue.remove(jobs[gone]));
    CHECK_FALSE(queue.remove(jobs[gone]));
    queue.push(other);
    std::vector<int> order;
    while (!queue.empty()) order.push_back(queue.pop().number);
    std::vector<int> expected{1, 2, 3, 4};
    expected.erase(expected.begin() + static_cast<std::ptrdiff_t>(gone));
    CHECK(order == expected);
    CHECK_FALSE(queue.remove(other));
    queue.push(other);
    CHECK(queue.remove(other));
    CHECK(queue.empty());
  }
}
