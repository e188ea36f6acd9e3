//! What the ends of a handoff say to each other; what must hold is in
//! `src/handoff/oracle.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|script: &[u8]| heirloom::fuzzing::handoff(script));
