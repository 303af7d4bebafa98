//! Each decoder is fed with what no sound peer, disk or person gives: arbitrary bytes, each prefix and each single-bit
//! change of sound bytes, hostile lengths. It finds an error or a value; it never panics, never believes a length, and
//! takes linear time.

#![allow(clippy::unwrap_used)] // the lint's exception for tests does not reach their helpers

#[path = "../../smr/tests/memory_limit/mod.rs"]
mod memory_limit;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use madkv_chaos::decoders::{ALL, Decoder};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use memory_limit::limit_memory;

/// What this process may take beyond what it has at the start, in bytes. Much more than its threads need, much less
/// than any hostile length asks for: an allocation that believes one ends the whole test run.
const MEMORY_MAX_BYTES: u64 = 2 << 30;
/// Arbitrary and hostile inputs for each decoder.
const CASES: u64 = 600;
/// Bit changes for each sound input at most; spread evenly if there are more bits.
const FLIPS_MAX: usize = 6_000;
/// What a mebibyte may take: hundreds of times what it does take in a debug build on a busy machine, and far from what
/// quadratic work takes.
const MEBIBYTE_MAX: Duration = Duration::from_secs(60);

fn for_each(check: impl Fn(&Decoder, &mut ChaCha8Rng)) {
    limit_memory(MEMORY_MAX_BYTES);
    for (seed, decoder) in ALL.iter().enumerate() {
        eprintln!("{}", decoder.name);
        check(decoder, &mut ChaCha8Rng::seed_from_u64(seed as u64));
    }
}

// covers B1
#[test]
fn sound_bytes_and_each_prefix_of_them_are_read() {
    for_each(|decoder, _| {
        for sound in (decoder.sound)() {
            assert!(!sound.is_empty(), "{}", decoder.name);
            for len in 0..=sound.len() {
                decoder.run_on(&sound[..len]);
            }
        }
    });
}

// covers B1, D11
#[test]
fn each_single_bit_change_is_an_error_or_another_value() {
    for_each(|decoder, _| {
        for sound in (decoder.sound)() {
            let bits = sound.len() * 8;
            let flips = bits.min(FLIPS_MAX);
            for flip in 0..flips {
                let bit = flip * bits / flips;
                let mut bytes = sound.clone();
                bytes[bit / 8] ^= 1 << (bit % 8);
                decoder.run_on(&bytes);
            }
        }
    });
}

// covers B1
#[test]
fn arbitrary_bytes_are_an_error_or_a_value() {
    for_each(|decoder, rng| {
        let sound = (decoder.sound)();
        for _ in 0..CASES {
            let mut bytes = vec![0; rng.random_range(0..400)];
            rng.fill_bytes(&mut bytes);
            // Small numbers are more often what a length or a tag is.
            let mask = [0xff, 0x0f, 0x03][rng.random_range(0..3)];
            bytes.iter_mut().for_each(|byte| *byte &= mask);
            decoder.run_on(&bytes);
            // Something sound in front, so that it is not turned away at the first byte.
            let whole = &sound[rng.random_range(0..sound.len())];
            let head = &whole[..rng.random_range(0..=whole.len())];
            decoder.run_on(&[head, &bytes].concat());
        }
    });
}

// covers B1, B2
#[test]
fn hostile_lengths_allocate_nothing() {
    for_each(|decoder, rng| {
        for sound in (decoder.sound)() {
            for _ in 0..CASES / 4 {
                let mut bytes = sound.clone();
                let at = rng.random_range(0..bytes.len());
                let length =
                    [u64::MAX, 1 << 63, 1 << 40, u64::from(u32::MAX), 1 << 31, rng.random()][rng.random_range(0..6)];
                for (byte, hostile) in bytes[at..].iter_mut().zip(length.to_le_bytes()) {
                    *byte = hostile;
                }
                decoder.run_on(&bytes);
            }
        }
    });
}

// covers B1
#[test]
fn a_mebibyte_takes_linear_time() {
    for_each(|decoder, rng| {
        let mut random = vec![0; 1 << 20];
        rng.fill_bytes(&mut random);
        let mut inputs = vec![vec![0; 1 << 20], vec![1; 1 << 20], vec![b'\n'; 1 << 20], random];
        for sound in (decoder.sound)() {
            inputs.push(sound.iter().copied().cycle().take(1 << 20).collect());
        }
        for input in inputs {
            let begun = Instant::now();
            decoder.run_on(&input);
            let taken = begun.elapsed();
            assert!(taken < MEBIBYTE_MAX, "{}: {taken:?} for a mebibyte of {:?}...", decoder.name, &input[..8]);
        }
    });
}

/// The targets of `cargo fuzz` are the same functions, and none is missing.
#[test]
fn each_decoder_has_its_fuzz_target() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
    let manifest = fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
    for decoder in ALL {
        let name = decoder.name;
        assert!(manifest.contains(&format!("name = \"{name}\"")), "fuzz/Cargo.toml lacks {name}");
        let target = fs::read_to_string(fuzz.join("fuzz_targets").join(format!("{name}.rs"))).unwrap();
        assert!(target.contains(&format!("decoders::run(\"{name}\", bytes)")), "{name}: {target}");
    }
    assert_eq!(manifest.matches("[[bin]]").count(), ALL.len());
}
