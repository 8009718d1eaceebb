//! Pictures made ready for a network: as many as there is time for.
//!
//! `cargo bench --bench pictures -- FOLDER [THREADS [SECONDS]]` takes the JPEG files of a folder in turn, from memory, and prints
//! one JSON object: pictures per second, by the clock and by the time of the processors.
#![allow(missing_docs, clippy::unwrap_used)]

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use rigl_xla::data::imagenet::{Kind, Preprocessor};
use rigl_xla::data::picture::{self, Dct, Header, Image};

const SIZE: usize = 224;

/// Seconds of the processors that this process has had.
fn processor_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let ticks = |field: usize| {
        stat.rsplit(')')
            .next()
            .unwrap()
            .split(' ')
            .nth(field)
            .unwrap()
            .parse::<f64>()
            .unwrap()
    };
    (ticks(12) + ticks(13)) / 100.0
}

/// Runs `of` on one picture after the other.
fn rate(pictures: &[Vec<u8>], threads: usize, seconds: f64, of: impl Fn(&[u8], usize, &mut [f32]) + Sync) -> [f64; 2] {
    let next = AtomicUsize::new(0);
    let work = |until: Instant| {
        let mut out = vec![0.0; SIZE * SIZE * 3];
        while Instant::now() < until {
            let i = next.fetch_add(1, Ordering::Relaxed);
            of(&pictures[i % pictures.len()], i, &mut out);
        }
    };
    work(Instant::now() + Duration::from_millis(200));
    next.store(0, Ordering::Relaxed);
    let (begun, before) = (Instant::now(), processor_seconds());
    let until = begun + Duration::from_secs_f64(seconds);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(|| work(until)))));
    let (clock, processors) = (begun.elapsed().as_secs_f64(), processor_seconds() - before);
    [clock, processors].map(|seconds| (next.load(Ordering::Relaxed) as f64 / seconds).round())
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let number = |i: usize, or: f64| args.get(i).map_or(or, |arg| arg.parse().unwrap());
    let (threads, seconds) = (number(1, 1.0) as usize, number(2, 5.0));
    let mut paths: Vec<_> = fs::read_dir(&args[0])
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    let pictures: Vec<_> = paths.iter().map(|path| fs::read(path).unwrap()).collect();
    let [original, antialiased] = [Kind::Original, Kind::Antialiased].map(|kind| Preprocessor { size: SIZE, kind });
    let train = |preprocessor: Preprocessor| {
        rate(&pictures, threads, seconds, move |bytes, i, out| {
            let mut rng = ChaCha8Rng::seed_from_u64(i as u64);
            preprocessor.train(bytes, &[], &mut rng, out).unwrap();
        })
    };
    let eval = |preprocessor: Preprocessor| {
        rate(&pictures, threads, seconds, move |bytes, _, out| {
            preprocessor.eval(bytes, out).unwrap()
        })
    };
    let decode = |dct| {
        rate(&pictures, threads, seconds, move |bytes, _, _| {
            let whole = |header: Header| Ok::<_, picture::Error>(header.whole());
            picture::decode(bytes, dct, whole, &mut Image::default()).unwrap();
        })
    };
    let report = serde_json::json!({
        "pictures": pictures.len(), "threads": threads, "columns": ["per second", "per processor second"],
        "train": train(original), "eval": eval(original), "decode": decode(Dct::Fast),
        "train, antialiased": train(antialiased), "eval, antialiased": eval(antialiased),
    });
    println!("{report}");
}
