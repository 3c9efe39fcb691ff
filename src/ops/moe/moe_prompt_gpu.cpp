#include "ops/gpu/gpu.h"
