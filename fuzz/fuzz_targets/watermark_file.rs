#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| madkv_chaos::decoders::run("watermark_file", bytes));
