// What programs of the CPU take of the standard library.  ``host_program.py`` compiles it once for
// many programs: reading it takes longer than compiling a kernel.
#pragma once
#include <cfenv>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <vector>
