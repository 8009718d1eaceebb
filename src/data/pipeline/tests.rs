use super::*;
use crate::data::{Error, tfrecord};
use hlo::DType;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Images of four bytes: index, epoch (255 without one), and twice the index; the label is 100 + index. Some examples
/// are slow, some corrupt, and one panics.
struct Numbers {
    examples: usize,
    corrupt: Vec<usize>,
    panics: Option<usize>,
    made: AtomicUsize,
}

fn numbers(examples: usize) -> Numbers {
    Numbers {
        examples,
        corrupt: vec![],
        panics: None,
        made: AtomicUsize::new(0),
    }
}

impl Source for Numbers {
    type Scratch = u64;

    fn len(&self) -> usize {
        self.examples
    }

    fn image(&self) -> Shape {
        Shape::new(DType::U8, [4])
    }

    fn read(&self, example: Place, calls: &mut u64, out: &mut [u8]) -> Result<i32> {
        *calls += 1;
        let Place { index, epoch } = example;
        if (index as u64 + *calls).is_multiple_of(7) {
            thread::sleep(Duration::from_micros(300));
        }
        assert!(self.panics != Some(index), "asked to");
        if self.corrupt.contains(&index) {
            let problem = tfrecord::Problem::Other("asked to".into());
            let (path, offset) = ("numbers".into(), 10 * index as u64);
            return Err(tfrecord::Error::Record { path, offset, problem }.into());
        }
        let epoch = epoch.map_or(255, |epoch| epoch as u8);
        out.copy_from_slice(&[index as u8, epoch, index as u8, index as u8]);
        self.made.fetch_add(1, Ordering::Relaxed);
        Ok(100 + index as i32)
    }
}

const ALONE: Options = Options {
    threads: 1,
    prefetch: 1,
    skip_corrupt: 0,
};

fn options() -> impl Iterator<Item = Options> {
    let prefetches = [1, 2, 5];
    prefetches.into_iter().flat_map(|prefetch| {
        [1, 2, 4].map(|threads| Options {
            threads,
            prefetch,
            skip_corrupt: 0,
        })
    })
}

fn training(examples: usize, batch: usize) -> Order {
    Order::shuffled(examples, batch, 3, true, Part::WHOLE).unwrap()
}

fn taken(source: Numbers, order: Order, options: Options, first: u64, count: usize) -> Vec<Batch> {
    let mut pipeline = Pipeline::start(Arc::new(source), order, options, first).unwrap();
    (0..count).map(|_| pipeline.take().unwrap().unwrap()).collect()
}

#[test]
fn batches_depend_on_their_number_alone() {
    let whole = taken(numbers(50), training(50, 8), ALONE, 0, 20);
    let order = |i: u64| training(50, 8).batch(i).unwrap();
    for (i, batch) in whole.iter().enumerate() {
        let places = order(i as u64);
        let epoch = (i / 6) as u8;
        let image = |p: &Place| [p.index as u8, epoch, p.index as u8, p.index as u8];
        let images: Vec<u8> = places.iter().flat_map(image).collect();
        assert_eq!(batch.images, Literal::new(&[8, 4], &images));
        let labels = places.iter().map(|p| 100 + p.index as i32);
        assert_eq!(batch.labels, labels.collect::<Vec<_>>());
        assert!(batch.present.iter().all(|&p| p));
    }
    for options in options() {
        assert_eq!(
            taken(numbers(50), training(50, 8), options, 0, 20),
            whole,
            "{options:?}"
        );
        assert_eq!(
            taken(numbers(50), training(50, 8), options, 7, 13),
            whole[7..],
            "{options:?}"
        );
    }
}

#[test]
fn every_example_is_evaluated_once_and_the_last_batch_is_filled_up() {
    for options in options() {
        let mut pipeline =
            Pipeline::start(Arc::new(numbers(21)), Order::in_turn(21, 8, Part::WHOLE), options, 0).unwrap();
        let batches: Vec<Batch> = std::iter::from_fn(|| pipeline.take().unwrap()).collect();
        assert_eq!(batches.len(), 3);
        let labels: Vec<i32> = batches.iter().flat_map(|b| b.labels.clone()).collect();
        assert_eq!(labels, [(100..121).collect::<Vec<i32>>(), vec![0; 3]].concat());
        let present = batches.iter().flat_map(|b| &b.present);
        assert_eq!(present.filter(|&&p| p).count(), 21);
        assert!(batches[2].images.bytes()[20..].iter().all(|&b| b == 0));
        assert_eq!(pipeline.take().unwrap(), None);
    }
}

#[test]
fn processes_share_each_batch() {
    let whole = taken(numbers(40), training(40, 10), ALONE, 0, 9);
    for count in [2, 3] {
        let parts: Vec<Vec<Batch>> = (0..count)
            .map(|process| {
                let order = Order::shuffled(40, 10, 3, true, Part { process, count }).unwrap();
                taken(numbers(40), order, ALONE, 0, 9)
            })
            .collect();
        for (i, batch) in whole.iter().enumerate() {
            let together: Vec<i32> = parts.iter().flat_map(|part| part[i].labels.clone()).collect();
            assert_eq!(together, batch.labels);
        }
        // In a short batch too, every example belongs to one process.
        let all = (0..count).flat_map(|process| {
            let order = Order::in_turn(23, 9, Part { process, count });
            let mut pipeline = Pipeline::start(Arc::new(numbers(23)), order, ALONE, 0).unwrap();
            let batches: Vec<Batch> = std::iter::from_fn(|| pipeline.take().unwrap()).collect();
            assert_eq!(batches.len(), 3);
            batches.into_iter().flat_map(|b| b.indices)
        });
        let all: Vec<usize> = all.collect();
        assert_eq!((all.len(), all.into_iter().collect::<BTreeSet<_>>().len()), (23, 23));
    }
}

#[test]
fn nothing_is_made_further_ahead_than_asked_for() {
    let source = Arc::new(numbers(1000));
    let options = Options {
        threads: 3,
        prefetch: 2,
        skip_corrupt: 0,
    };
    let mut pipeline = Pipeline::start(Arc::clone(&source), training(1000, 10), options, 0).unwrap();
    for taken in 0..5 {
        let deadline = Instant::now() + Duration::from_secs(20);
        let bound = 10 * (2 + taken);
        while source.made.load(Ordering::Relaxed) < bound && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        thread::sleep(Duration::from_millis(5));
        assert_eq!(source.made.load(Ordering::Relaxed), bound);
        pipeline.take().unwrap();
    }
}

#[test]
fn an_error_comes_when_its_batch_does_and_ends_the_pipeline() {
    for options in options() {
        let source = Numbers {
            corrupt: vec![17, 19],
            ..numbers(40)
        };
        let order = Order::in_turn(40, 8, Part::WHOLE);
        let mut pipeline = Pipeline::start(Arc::new(source), order, options, 0).unwrap();
        assert!(pipeline.take().is_ok() && pipeline.take().is_ok());
        let message = pipeline.take().unwrap_err().to_string();
        assert_eq!(message, "numbers: record at byte 170: asked to");
        assert!(matches!(pipeline.take(), Err(Error::Workers)));
    }
}

#[test]
fn a_panic_of_a_worker_is_an_error() {
    for options in options() {
        let source = Numbers {
            panics: Some(9),
            ..numbers(40)
        };
        let order = Order::in_turn(40, 8, Part::WHOLE);
        let mut pipeline = Pipeline::start(Arc::new(source), order, options, 0).unwrap();
        let results: Vec<_> = (0..2).map(|_| pipeline.take().is_err()).collect();
        assert!(results[1], "{options:?}");
    }
}

#[test]
fn corrupt_examples_are_left_out_up_to_a_number() {
    let source = || Numbers {
        corrupt: vec![4, 5, 39],
        ..numbers(40)
    };
    let with = |options: Options, skip_corrupt| Options {
        skip_corrupt,
        ..options
    };
    let mut all = vec![];
    for options in options() {
        let mut pipeline = Pipeline::start(Arc::new(source()), training(40, 8), with(options, 3), 0).unwrap();
        let batches: Vec<Batch> = (0..10).map(|_| pipeline.take().unwrap().unwrap()).collect();
        // The next sound example replaces it, in the same epoch.
        for (i, batch) in batches.iter().enumerate() {
            let wanted = training(40, 8).batch(i as u64).unwrap();
            let good = wanted.iter().map(|p| match p.index {
                4 | 5 => 6,
                39 => 0,
                index => index,
            });
            assert_eq!(batch.indices, good.collect::<Vec<_>>());
            assert!(batch.present.iter().all(|&p| p));
        }
        let skipped: Vec<_> = pipeline.skipped().keys().copied().collect();
        assert_eq!(skipped, [4, 5, 39]);
        all.push(batches);

        let mut pipeline = Pipeline::start(Arc::new(source()), training(40, 8), with(options, 2), 0).unwrap();
        let error = (0..5).find_map(|_| pipeline.take().err()).unwrap();
        assert!(error.is_corrupt() && pipeline.skipped().len() == 2, "{error}");

        // In evaluation nothing replaces it.
        let order = Order::in_turn(40, 8, Part::WHOLE);
        let mut pipeline = Pipeline::start(Arc::new(source()), order, with(options, 3), 0).unwrap();
        let batches: Vec<Batch> = std::iter::from_fn(|| pipeline.take().unwrap()).collect();
        let absent = batches.iter().flat_map(|b| &b.present).enumerate();
        let absent: Vec<usize> = absent.filter(|(_, present)| !**present).map(|(i, _)| i).collect();
        assert_eq!(absent, [4, 5, 39]);
    }
    assert!(all.windows(2).all(|two| two[0] == two[1]));
}

#[test]
fn a_set_with_nothing_good_in_it_ends() {
    let source = Numbers {
        corrupt: (0..10).collect(),
        ..numbers(10)
    };
    let options = Options {
        threads: 2,
        prefetch: 2,
        skip_corrupt: 1000,
    };
    let mut pipeline = Pipeline::start(Arc::new(source), training(10, 5), options, 0).unwrap();
    assert!(pipeline.take().unwrap_err().to_string().contains("asked to"));
}

#[test]
fn batches_are_joined_and_filled_up() {
    let part = |value: u8| Literal::new(&[2, 3], &[value; 6]);
    assert_eq!(joined(vec![part(1)], 1).unwrap(), part(1));
    let two = joined(vec![part(1), part(2)], 3).unwrap();
    let bytes = [[1u8; 6], [2; 6], [0; 6]].concat();
    assert_eq!(two, Literal::new(&[6, 3], &bytes));
    assert_eq!(joined(vec![], 1), None);
}
