// coir/base/list.hpp: the two lists that every waiting thing hangs in: a ring of nodes, and a queue.
//
//   struct waiter : coir::list_node { ... };
//   coir::list<waiter> waiters;
//   waiters.push_back(w);   w.unlink();                               [tests/base/list_test.cpp]
//
// Shape    list: doubly linked through the elements, 16 bytes a node; queue: singly linked through a
//          member of the elements, two pointers. Neither owns its elements.
// Order    first in, first out.
// Thread   one; nothing here is atomic.
// Errors   a linked node that is destroyed or linked again is a bug and asserts.
// Cost     every operation O(1), but for queue::remove; no allocation.
#pragma once

#include <coir/base/assert.hpp>

namespace coir {

// A place in one list at a time. An element derives from it and is neither copied nor moved while
// linked: moving an element leaves the source linked and makes the copy unlinked.
class list_node {
 public:
  list_node() noexcept = default;
  list_node(const list_node&) noexcept {}
  list_node& operator=(const list_node&) noexcept { return *this; }
  ~list_node() { COIR_ASSERT(!linked(), "a node was destroyed while it hung in a list"); }

  bool linked() const noexcept { return next_ != nullptr; }

  // Leaves the list it is in, whichever that is; harmless when it is in none.
  void unlink() noexcept {
    if (!linked()) return;
    next_->previous_ = previous_;
    previous_->next_ = next_;
    next_ = previous_ = nullptr;
  }

 private:
  template <class T>
  friend class list;
  list_node* next_ = nullptr;
  list_node* previous_ = nullptr;
};

template <class T>
class list {
 public:
  list() noexcept { end_.next_ = end_.previous_ = &end_; }
  list(const list&) = delete;
  list& operator=(const list&) = delete;
  ~list() {
    COIR_ASSERT(empty(), "a list was destroyed with elements in it");
    end_.next_ = end_.previous_ = nullptr;
  }

  bool empty() const noexcept { return end_.next_ == &end_; }
  T& front() const noexcept { return static_cast<T&>(*end_.next_); }

  // The one behind an element of this list; null behind the last.
  T* after(const T& element) const noexcept {
    list_node* const next = static_cast<const list_node&>(element).next_;
    return next == &end_ ? nullptr : static_cast<T*>(next);
  }

  void push_back(T& element) noexcept {
    list_node& node = element;
    COIR_ASSERT(!node.linked(), "a node was put in a second list");
    node.previous_ = end_.previous_;
    node.next_ = &end_;
    end_.previous_->next_ = &node;
    end_.previous_ = &node;
  }

  void push_front(T& element) noexcept {
    list_node& node = element;
    COIR_ASSERT(!node.linked(), "a node was put in a second list");
    node.next_ = end_.next_;
    node.previous_ = &end_;
    end_.next_->previous_ = &node;
    end_.next_ = &node;
  }

  T& pop_front() noexcept {
    T& first = front();
    first.unlink();
    return first;
  }

  // Takes all elements of `other`, in order, behind its own.
  void splice_back(list& other) noexcept {
    while (!other.empty()) push_back(other.pop_front());
  }

  // Calls `visit` for each element; `visit` may unlink the element it is given, and no other.
  template <class F>
  void for_each(F&& visit) const {
    for (list_node* node = end_.next_; node != &end_;) {
      list_node* next = node->next_;
      visit(static_cast<T&>(*node));
      node = next;
    }
  }

 private:
  list_node end_;
};

// First in, first out through one pointer of each element. An element knows neither whether it is
// queued nor its neighbours in front: it leaves at the head, or by a search for it.
template <class T, T* T::*Next>
class queue {
 public:
  bool empty() const noexcept { return head_ == nullptr; }
  T* front() const noexcept { return head_; }

  void push(T& element) noexcept {
    element.*Next = nullptr;
    if (head_ == nullptr) {
      head_ = &element;
    } else {
      tail_->*Next = &element;
    }
    tail_ = &element;
  }

  void push_front(T& element) noexcept {
    element.*Next = head_;
    if (head_ == nullptr) tail_ = &element;
    head_ = &element;
  }

  T& pop() noexcept {
    T& first = *head_;
    head_ = first.*Next;
    return first;
  }

  // O(n). False: it is not in here.
  bool remove(T& element) noexcept {
    T* before = nullptr;
    for (T* at = head_; at != &element; at = at->*Next) {
      if (at == nullptr) return false;
      before = at;
    }
    (before == nullptr ? head_ : before->*Next) = element.*Next;
    if (tail_ == &element) tail_ = before;
    return true;
  }

 private:
  T* head_ = nullptr;
  T* tail_ = nullptr;
};

}  // namespace coir
