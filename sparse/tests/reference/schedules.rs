//! Drop schedules and counter traces (reference 2.2-2.4; unit test 14).

use sparse::reference::n_prune;
use sparse::{Anneal, Counters, Error, Schedule, Tick, UpdateTiming, simulate};

fn schedule(begin_step: i64, end_step: i64, frequency_steps: i64, drop_fraction: f64, anneal: Anneal) -> Schedule {
    Schedule {
        begin_step,
        end_step,
        frequency_steps,
        drop_fraction,
        anneal,
    }
}

#[test]
fn updates_are_counted_from_the_last_one() {
    let s = schedule(3, 7, 2, 0.3, Anneal::Constant);
    assert!(!s.is_update(2, s.initial_last_update()) && s.is_update(3, s.initial_last_update()));
    assert!(!s.is_update(4, 3) && s.is_update(5, 3));
    assert!(s.is_update(7, 5) && !s.is_update(8, 5));
    assert!(schedule(0, -1, 1, 0.3, Anneal::Constant).is_update(i64::MAX - 1, 0));
}

#[test]
fn drop_fractions_anneal() {
    let cosine = schedule(0, 25000, 100, 0.3, Anneal::Cosine);
    let wants = [
        (0, 0.3),
        (100, 0.299_988_16),
        (5000, 0.271_352_55),
        (12500, 0.15),
        (20000, 0.028_647_45),
        (25000, 0.0),
    ];
    for (gs, want) in wants {
        assert!(
            (cosine.drop_fraction_at(gs) - want).abs() < 3e-8,
            "{gs}: {}",
            cosine.drop_fraction_at(gs)
        );
    }
    assert_eq!(
        [cosine.drop_fraction_at(25000), cosine.drop_fraction_at(30000)],
        [0.0; 2]
    );
    // The cosine uses gs, not gs - begin; without an end it is 0 throughout.
    assert_eq!(schedule(100, 200, 10, 0.4, Anneal::Cosine).drop_fraction_at(100), 0.0);
    assert_eq!(schedule(0, -1, 10, 0.4, Anneal::Cosine).drop_fraction_at(5), 0.0);
    let exponential = |k, gs| schedule(100, 300, 10, 0.4, Anneal::Exponential(k)).drop_fraction_at(gs);
    assert_eq!(
        [exponential(1.0, 100), exponential(1.0, 150), exponential(3.0, 200)],
        [0.4, 0.3, 0.05]
    );
    assert_eq!([exponential(3.0, 300), exponential(0.0, 300)], [0.0, 0.4]);
    assert_eq!(schedule(0, 10, 1, 0.3, Anneal::Constant).drop_fraction_at(7), 0.3);
}

#[test]
fn anneal_names() {
    for (name, want) in [
        ("constant", Anneal::Constant),
        ("cosine", Anneal::Cosine),
        ("exponential", Anneal::Exponential(1.0)),
        ("exponential_3", Anneal::Exponential(3.0)),
        ("exponential_.5", Anneal::Exponential(0.5)),
    ] {
        assert_eq!(name.parse::<Anneal>().unwrap(), want);
        assert_eq!(want.to_string().parse::<Anneal>().unwrap(), want);
    }
    assert!(matches!("exponential_".parse::<Anneal>(), Err(Error::Suffix { .. })));
    for name in ["cosine_2", "linear", "exponential_x", ""] {
        assert!(matches!(name.parse::<Anneal>(), Err(Error::Unknown { .. })), "{name}");
    }
}

#[test]
fn rejects_invalid_schedules() {
    let refused = |s: Schedule| s.validate().unwrap_err().to_string();
    assert!(refused(schedule(0, 10, 0, 0.3, Anneal::Constant)).contains("frequency_steps is 0"));
    for d in [-0.1, 1.1, f64::NAN] {
        assert!(refused(schedule(0, 10, 1, d, Anneal::Constant)).contains("drop_fraction"));
    }
    assert!(refused(schedule(5, 5, 1, 0.3, Anneal::Cosine)).contains("end_step is 5"));
    assert!(refused(schedule(0, -1, 1, 0.3, Anneal::Exponential(2.0))).contains("end_step is -1"));
    for fine in [
        schedule(0, -1, 1, 1.0, Anneal::Constant),
        schedule(9, 5, 1, 0.0, Anneal::Cosine),
    ] {
        assert_eq!(fine.validate(), Ok(()));
    }
}

#[test]
fn rigl_iterations() {
    let s = schedule(0, 8, 3, 0.3, Anneal::Cosine);
    let ticks: Vec<Tick> = simulate(UpdateTiming::Replaces, &s, 10).collect();
    let steps: Vec<(i64, i64, bool)> = ticks
        .iter()
        .map(|t| (t.step_before, t.step_after, t.update_at.is_some()))
        .collect();
    let (u, g) = (true, false);
    let want = [
        (0, 0, u),
        (0, 1, g),
        (1, 2, g),
        (2, 3, g),
        (3, 3, u),
        (3, 4, g),
        (4, 5, g),
        (5, 6, g),
        (6, 6, u),
        (6, 7, g),
    ];
    assert_eq!(steps, want);
    let pruned: Vec<(String, usize)> = ticks
        .iter()
        .filter(|t| t.update_at.is_some())
        .map(|t| (format!("{:.4}", t.drop_fraction), n_prune(50, t.drop_fraction)))
        .collect();
    assert_eq!(
        pruned,
        [("0.3000".into(), 15), ("0.2074".into(), 10), ("0.0439".into(), 2)]
    );
}

#[test]
fn set_iterations() {
    let s = schedule(0, 8, 3, 0.3, Anneal::Cosine);
    let updates: Vec<(u64, i64, String)> = simulate(UpdateTiming::After, &s, 12)
        .inspect(|t| assert_eq!(t.step_after, t.step_before + 1))
        .filter_map(|t| Some((t.iteration, t.update_at?, format!("{:.4}", t.drop_fraction))))
        .collect();
    assert_eq!(
        updates,
        [
            (0, 1, "0.2886".into()),
            (3, 4, "0.1500".into()),
            (6, 7, "0.0114".into())
        ]
    );
}

/// Unit test 14.
#[test]
fn rigl_step_counter() {
    for (begin, end, frequency, want) in [
        (3, 7, 2, "11101101101"),
        (1, 5, 3, "10111011111"),
        (0, 4, 1, "01010101011"),
    ] {
        let s = schedule(begin, end, frequency, 0.0, Anneal::Constant);
        let incremented: String = simulate(UpdateTiming::Replaces, &s, 11)
            .map(|t| if t.step_after > t.step_before { '1' } else { '0' })
            .collect();
        assert_eq!(incremented, want);
    }
}

#[test]
fn whole_runs() {
    let updates = |timing, s: &Schedule, n| simulate(timing, s, n).filter_map(|t| t.update_at).collect::<Vec<_>>();
    // MNIST counts iterations, so RigL's updates cost gradient steps.
    let mnist = schedule(0, 50000, 100, 0.3, Anneal::Cosine);
    assert_eq!(updates(UpdateTiming::Replaces, &mnist, 120_000).len(), 501);
    assert_eq!(
        simulate(UpdateTiming::Replaces, &mnist, 120_000)
            .last()
            .unwrap()
            .step_after,
        119_499
    );
    // ImageNet.
    let imagenet = schedule(0, 25000, 100, 0.3, Anneal::Cosine);
    let want: Vec<i64> = (0..=250).map(|i| 100 * i).collect();
    assert_eq!(updates(UpdateTiming::Replaces, &imagenet, 32_251), want);
    let want: Vec<i64> = (0..250).map(|i| 100 * i + 1).collect();
    assert_eq!(updates(UpdateTiming::After, &imagenet, 32_000), want);
    assert!(updates(UpdateTiming::None, &imagenet, 1000).is_empty());
}

#[test]
fn counters_resume() {
    let s = schedule(2, 50, 7, 0.3, Anneal::Cosine);
    for timing in [
        UpdateTiming::Replaces,
        UpdateTiming::After,
        UpdateTiming::AfterInterval,
        UpdateTiming::Every,
        UpdateTiming::Once,
        UpdateTiming::None,
    ] {
        let mut counters = Counters::start(timing, &s);
        let mut ticks: Vec<Tick> = (0..33).map(|_| counters.advance(timing, &s)).collect();
        let mut resumed = Counters { ..counters };
        ticks.extend((0..33).map(|_| resumed.advance(timing, &s)));
        assert_eq!(ticks, simulate(timing, &s, 66).collect::<Vec<_>>());
    }
}
