//! C's `pow`, so that no process of ours loads the whole of libm for it.
//!
//! tokio's scheduler has a moving average, which is all that our daemons calculate with libm. Half a megabyte of it is
//! resident in each process that loads it, since the loader chooses among its functions by CPU whether they are called or not.

#![expect(unsafe_code, reason = "what is linked under C's name has to be what C means by it")]

// SAFETY: it has the signature and the meaning of C's.
#[unsafe(no_mangle)]
extern "C" fn pow(base: f64, exponent: f64) -> f64 {
    libm::pow(base, exponent)
}
