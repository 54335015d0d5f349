// What nearly every unit test includes, compiled once a variant and put in front of each: a third of their compilation.
// Files include what they use all the same.
#ifndef METRONOME_TESTS_UNIT_PRELUDE_H
#define METRONOME_TESTS_UNIT_PRELUDE_H

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <gtest/gtest.h>
#include <map>
#include <memory>
#include <string>
#include <vector>

#endif
