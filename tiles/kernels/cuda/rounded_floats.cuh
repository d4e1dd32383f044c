// Correctly rounded operations of fp32, and floats as bits.  As PTX: CuPy compiles with -ftz=true whatever
// it is asked for, which PTX does not heed.

#ifndef ON_HOST
DEVICE float divide_rn(float x, float y) {
    float result;
    asm("div.rn.f32 %0, %1, %2;" : "=f"(result) : "f"(x), "f"(y));
    return result;
}

DEVICE float multiply_rn(float x, float y) {
    float result;
    asm("mul.rn.f32 %0, %1, %2;" : "=f"(result) : "f"(x), "f"(y));
    return result;
}
#endif

DEVICE float as_float(u32 bits) { return __uint_as_float(bits); }
DEVICE u32 as_bits(float value) { return __float_as_uint(value); }
