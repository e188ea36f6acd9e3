//! Whole connections; what must hold is in `src/connection/oracle`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| heirloom::fuzzing::connection(bytes));
