//! The fuzz targets for a bounded time, without coverage and on the stable toolchain.
//!
//! Each target is fed its seeds, and then what becomes of them by cutting, copying, flipping and putting in words that mean
//! something to it. An input of a kind that wasn't seen before (another refusal, another state) is kept, to make others of. The
//! inputs are the same in each run; how many there are depends on `TIDEGATE_FUZZ_SECONDS` for each target (2 s).

#[path = "../../fuzz/targets.rs"]
mod targets;

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use targets::{ALL, Target};

/// Bytes of an input at most.
const LONGEST: usize = 4 << 10;

/// Inputs that are kept to make others of. Beyond it a new one replaces an old one.
const KEPT: usize = 256;

/// Kinds of input that are remembered. Beyond it no input is kept any more.
const KINDS: usize = 100_000;

#[test]
fn no_input_breaks_a_promise() {
    let seconds = std::env::var("TIDEGATE_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(2);
    let budget = Duration::from_secs(seconds);
    // One thread for each: together they take as long as one where there are cores.
    let ended: Vec<_> = std::thread::scope(|scope| {
        let running: Vec<_> = ALL.iter().map(|target| scope.spawn(move || fuzz(target, budget))).collect();
        running.into_iter().map(|thread| thread.join().expect("targets are run with their panics caught")).collect()
    });

    let found: Vec<String> = ended.into_iter().filter_map(Result::err).collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// Runs one target. Prints how many inputs it got.
fn fuzz(target: &Target, budget: Duration) -> Result<(), String> {
    let mut rng = StdRng::seed_from_u64(7);
    let mut kept: Vec<Vec<u8>> = target.seeds.iter().map(|seed| seed.to_vec()).collect();
    let mut kinds = HashSet::new();
    for seed in &kept {
        kinds.insert(run(target, seed)?);
    }
    let began = Instant::now();
    let mut inputs: u64 = 0;
    while began.elapsed() < budget {
        let input = mutate(target, &kept, &mut rng);
        let kind = run(target, &input)?;
        inputs += 1;
        if kinds.len() < KINDS && kinds.insert(kind) {
            match kept.len() < KEPT {
                true => kept.push(input),
                false => {
                    let at = rng.random_range(target.seeds.len()..KEPT);
                    kept[at] = input;
                }
            }
        }
    }
    println!("{:<14}{inputs} inputs of {} kinds", target.name, kinds.len());
    Ok(())
}

fn run(target: &Target, input: &[u8]) -> Result<u64, String> {
    let told = |_| format!("{}: this input breaks it (the panic is above): b\"{}\"", target.name, input.escape_ascii());
    catch_unwind(AssertUnwindSafe(|| (target.run)(input))).map_err(told)
}

fn mutate(target: &Target, kept: &[Vec<u8>], rng: &mut StdRng) -> Vec<u8> {
    let mut input = kept[rng.random_range(0..kept.len())].clone();
    for _ in 0..rng.random_range(1..6) {
        let at = rng.random_range(0..=input.len());
        let to = rng.random_range(at..=input.len().min(at + 16));
        match rng.random_range(0..6) {
            0 => {
                let word = target.words[rng.random_range(0..target.words.len())];
                input.splice(at..at, word.iter().copied());
            }
            1 => {
                let word = target.words[rng.random_range(0..target.words.len())];
                input.splice(at..to, word.iter().copied());
            }
            2 => drop(input.drain(at..to)),
            3 if at < input.len() => input[at] ^= 1 << rng.random_range(0..8),
            4 => {
                let piece = input[at..to].to_vec();
                let into = rng.random_range(0..=input.len());
                input.splice(into..into, piece);
            }
            _ => {
                let other = &kept[rng.random_range(0..kept.len())];
                input.truncate(at);
                input.extend_from_slice(&other[rng.random_range(0..=other.len())..]);
            }
        }
    }
    input.truncate(LONGEST);
    input
}
