#include "device/kernel.h"
