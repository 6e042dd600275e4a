// What nearly every test includes, compiled once for all of them: half of what a test without optimization costs.
#include "support/both.hpp"
#include "support/catch.hpp"

#include <coir/coir.hpp>
