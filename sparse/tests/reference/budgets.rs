//! Sparsity distributions (reference 1.1, 1.3-1.7; unit tests 4-6).

use sparse::{Budget, BudgetOptions, Distribution, Error, Layer, Rounding, budgets, n_zeros};

use super::{custom, layers, options};

fn sparsities(shapes: &[&[usize]], options: &BudgetOptions) -> Vec<f64> {
    budgets(&layers(shapes), options)
        .unwrap()
        .iter()
        .map(|b| b.sparsity)
        .collect()
}

fn assert_close(found: &[f64], want: &[f64], tolerance: f64) {
    let close = |(f, w): (&f64, &f64)| {
        if *w == 0.0 {
            *f == 0.0
        } else {
            (f - w).abs() <= tolerance
        }
    };
    assert!(
        found.len() == want.len() && found.iter().zip(want).all(close),
        "{found:?}, expected {want:?}"
    );
}

/// The layers of a network that may have a mask, in creation order.
fn maskable(name: &str, mask_first: Option<bool>) -> Vec<Layer> {
    let options = models::Options {
        mask_first,
        ..models::Options::new(name, true)
    };
    let layers = options.build().unwrap().layers();
    let masked = layers.into_iter().filter(|l| l.masked);
    masked.map(|l| Layer::new(l.name, l.dims)).collect()
}

/// A table row: the shapes it covers, how many layers have them, and the sparsity at each level.
type Row<'a> = (&'a [&'a [usize]], usize, &'a [f64]);

/// Compares the ERK sparsities of `layers` at one level with column `column` of a table that covers all of them.
fn assert_erk_column(layers: &[Layer], level: f64, rows: &[Row], column: usize) -> Vec<Budget> {
    let found = budgets(layers, &options(Distribution::Erk, level)).unwrap();
    let mut covered = 0;
    for (shapes, count, want) in rows {
        let row: Vec<&Budget> = found.iter().filter(|b| shapes.contains(&&b.dims[..])).collect();
        assert_eq!(row.len(), *count, "{shapes:?}");
        for budget in row {
            assert_close(&[budget.sparsity], &[want[column]], 5.1e-7);
            assert_eq!(budget.saturated, want[column] == 0.0);
        }
        covered += count;
    }
    assert_eq!(covered, layers.len());
    found
}

fn ones(budgets: &[Budget]) -> usize {
    budgets.iter().map(|b| b.nonzeros).sum()
}

#[test]
fn erdos_renyi_toy_values() {
    use Distribution::{ErdosRenyi, Erk};
    let of = |distribution, shapes: &[&[usize]], s, want: &[f64]| {
        assert_close(&sparsities(shapes, &options(distribution, s)), want, 5.1e-11);
    };
    of(ErdosRenyi, &[&[8, 6], &[4, 3]], 0.7, &[0.7361111111, 0.4722222222]);
    let pair: [&[usize]; 2] = [&[2, 4], &[2, 3]];
    of(ErdosRenyi, &pair, 0.1, &[0.0, 0.0]);
    of(ErdosRenyi, &pair, 0.4, &[0.3863636364, 0.3181818182]);
    of(ErdosRenyi, &pair, 0.9, &[0.8636363636, 0.8484848485]);
    let three: [&[usize]; 3] = [&[3, 3, 16, 32], &[1, 1, 32, 64], &[64, 10]];
    of(Erk, &three, 0.5, &[0.7680921053, 0.0530427632, 0.0]);
    of(Erk, &three, 0.8, &[0.9242948009, 0.6908704369, 0.2530420354]);
    of(ErdosRenyi, &three, 0.8, &[0.7726328904, 0.8863164452, 0.7195805648]);
    let soft = BudgetOptions {
        power_scale: 0.5,
        ..options(Erk, 0.8)
    };
    assert_close(
        &sparsities(&three, &soft),
        &[0.8642714831, 0.7257298649, 0.5736597538],
        5.1e-11,
    );
    // Power 0: one sparsity for all, that of the whole budget. ER ignores the power.
    let flat = BudgetOptions {
        power_scale: 0.0,
        ..options(Erk, 0.8)
    };
    let total: usize = [4608, 2048, 640]
        .iter()
        .map(|&n| n_zeros(n, 0.8, Rounding::Floor))
        .sum();
    assert_close(&sparsities(&three, &flat), &[total as f64 / 7296.0; 3], 1e-12);
    let er = BudgetOptions {
        power_scale: 0.5,
        ..options(ErdosRenyi, 0.8)
    };
    assert_eq!(sparsities(&three, &er), sparsities(&three, &options(ErdosRenyi, 0.8)));
}

#[test]
fn erk_of_resnet50() {
    let all = maskable("resnet50", Some(true));
    #[rustfmt::skip]
    let rows: &[Row] = &[
        (&[&[7, 7, 3, 64]], 1, &[0.142805, 0.579962, 0.790163, 0.853113]),
        (&[&[1, 1, 64, 64]], 1, &[0.0, 0.0, 0.226471, 0.458523, 0.845102]),
        (&[&[3, 3, 64, 64]], 3, &[0.638095, 0.822662, 0.911408, 0.937985, 0.982259]),
        (&[&[1, 1, 64, 256], &[1, 1, 256, 64]], 6, &[0.0, 0.041181, 0.521007, 0.664701, 0.904082]),
        (&[&[1, 1, 256, 128]], 1, &[0.0, 0.425304, 0.712902, 0.799029, 0.942509]),
        (&[&[3, 3, 128, 128]], 4, &[0.823099, 0.913316, 0.956696, 0.969687, 0.991328]),
        (&[&[1, 1, 128, 512], &[1, 1, 512, 128]], 7, &[0.024680, 0.522079, 0.761247, 0.832871, 0.952190]),
        (&[&[1, 1, 256, 512], &[1, 1, 512, 256]], 2, &[0.415112, 0.713397, 0.856823, 0.899775, 0.971329]),
        (&[&[3, 3, 256, 256]], 6, &[0.912562, 0.957154, 0.978596, 0.985017, 0.995714]),
        (&[&[1, 1, 256, 1024], &[1, 1, 1024, 256]], 11, &[0.513099, 0.761412, 0.880810, 0.916566, 0.976132]),
        (&[&[1, 1, 512, 1024], &[1, 1, 1024, 512]], 2, &[0.707936, 0.856884, 0.928504, 0.949952, 0.985683]),
        (&[&[3, 3, 512, 512]], 3, &[0.956534, 0.978701, 0.989360, 0.992552, 0.997869]),
        (&[&[1, 1, 512, 2048], &[1, 1, 2048, 512]], 5, &[0.756740, 0.880799, 0.940451, 0.958315, 0.988075]),
        (&[&[1, 1, 1024, 2048]], 1, &[0.854063, 0.928489, 0.964275, 0.974992, 0.992846]),
        (&[&[2048, 1000]], 1, &[0.851824, 0.927392, 0.963727, 0.974609, 0.992736]),
    ];
    for (column, (level, total)) in [(0.8, 5100630), (0.9, 2550353), (0.95, 1275200), (0.965, 892651)]
        .into_iter()
        .enumerate()
    {
        assert_eq!(ones(&assert_erk_column(&all, level, rows, column)), total, "{level}");
    }
    assert_eq!(ones(&assert_erk_column(&all[1..], 0.99, &rows[1..], 4)), 254978);
    assert_eq!(
        all.iter().map(|l| l.dims.iter().product::<usize>()).sum::<usize>(),
        25502912
    );
    let uniform = |s| ones(&budgets(&all[1..], &options(Distribution::Uniform, s)).unwrap());
    assert_eq!(
        [0.8, 0.9, 0.95, 0.965, 0.99].map(uniform),
        [5098725, 2549377, 1274703, 892302, 254957]
    );
}

#[test]
fn erk_of_wide_resnet_22_2() {
    let all = maskable("wrn-22-2", None);
    #[rustfmt::skip]
    let rows: &[Row] = &[
        (&[&[1, 1, 16, 32]], 1, &[0.0, 0.0, 0.0, 0.0]),
        (&[&[3, 3, 16, 32]], 1, &[0.0, 0.112466, 0.577270, 0.795075]),
        (&[&[3, 3, 32, 32]], 5, &[0.0, 0.424747, 0.726008, 0.867179]),
        (&[&[1, 1, 32, 64]], 1, &[0.0, 0.0, 0.0, 0.163225]),
        (&[&[3, 3, 32, 64]], 1, &[0.0, 0.580887, 0.800377, 0.903230]),
        (&[&[3, 3, 64, 64]], 5, &[0.237141, 0.724700, 0.868875, 0.936435]),
        (&[&[1, 1, 64, 128]], 1, &[0.0, 0.0, 0.145733, 0.585882]),
        (&[&[3, 3, 64, 128]], 1, &[0.436395, 0.796607, 0.903124, 0.953038]),
        (&[&[3, 3, 128, 128]], 5, &[0.627110, 0.865432, 0.935906, 0.968929]),
        (&[&[128, 10]], 1, &[0.0, 0.0, 0.0, 0.0]),
    ];
    for (column, level) in [0.5, 0.8, 0.9, 0.95].into_iter().enumerate() {
        assert_erk_column(&all, level, rows, column);
    }
}

#[test]
fn erk_of_mobilenet_v1() {
    let all = maskable("mobilenet-v1", None);
    #[rustfmt::skip]
    let rows: &[Row] = &[
        (&[&[1, 1, 32, 64]], 1, &[0.0, 0.0]),
        (&[&[1, 1, 64, 128]], 1, &[0.0, 0.237274]),
        (&[&[1, 1, 128, 128]], 1, &[0.0, 0.492827]),
        (&[&[1, 1, 128, 256]], 1, &[0.037391, 0.620603]),
        (&[&[1, 1, 256, 256]], 1, &[0.359092, 0.747396]),
        (&[&[1, 1, 256, 512]], 1, &[0.519942, 0.810793]),
        (&[&[1, 1, 512, 512]], 5, &[0.680169, 0.873944]),
        (&[&[1, 1, 512, 1024]], 1, &[0.760283, 0.905519]),
        (&[&[1, 1, 1024, 1024]], 1, &[0.840241, 0.937033]),
        (&[&[1024, 1000]], 1, &[0.838481, 0.936340]),
    ];
    assert_erk_column(&all, 0.75, rows, 0);
    assert_erk_column(&all, 0.9, rows, 1);
}

/// Unit tests 4 and 5: custom layers keep their value, and with ER it stays out of the others' budget.
#[test]
fn custom_sparsities_are_verbatim() {
    let shapes: [&[usize]; 3] = [&[2, 3], &[2, 3], &[1, 1, 3]];
    for s in [0.0, 0.4, 0.9] {
        let found = sparsities(&shapes, &custom(options(Distribution::Uniform, s), &[("var1", 0.8)]));
        assert_eq!(found, [0.8, s, s]);
    }
    let shapes: [&[usize]; 3] = [&[2, 4], &[2, 3], &[1, 1, 3]];
    for s in [0.1, 0.4, 0.9] {
        let found = budgets(
            &layers(&shapes),
            &custom(options(Distribution::ErdosRenyi, s), &[("var3", 0.8)]),
        )
        .unwrap();
        assert_eq!(
            (found[2].sparsity, found[2].custom, found[2].saturated),
            (0.8, true, false)
        );
        let without = sparsities(&shapes[..2], &options(Distribution::ErdosRenyi, s));
        assert_eq!(vec![found[0].sparsity, found[1].sparsity], without);
    }
}

/// Unit test 6.
#[test]
fn erdos_renyi_keeps_budget_and_proportions() {
    for (a, b, s) in [
        (&[2, 3][..], &[2, 3][..], 0.5),
        (&[1, 1, 2, 3], &[1, 1, 2, 3], 0.3),
        (&[8, 6], &[4, 3], 0.7),
        (&[80, 4], &[20, 20], 0.8),
        (&[2, 6], &[2, 3], 0.8),
    ] {
        let found = budgets(&layers(&[a, b]), &options(Distribution::ErdosRenyi, s)).unwrap();
        let uniform = budgets(&layers(&[a, b]), &options(Distribution::Uniform, s)).unwrap();
        let zeros = |budgets: &[Budget]| budgets.iter().map(|b| b.zeros).sum::<usize>();
        assert!(zeros(&found).abs_diff(zeros(&uniform)) <= 2, "{a:?} {b:?}");
        let factor = |b: &Budget| {
            let [.., n_in, n_out] = b.dims[..] else { panic!() };
            (1.0 - b.sparsity) / ((n_in + n_out) as f64 / (n_in * n_out) as f64)
        };
        assert!((factor(&found[0]) - factor(&found[1])).abs() < 1e-7, "{a:?} {b:?}");
    }
}

#[test]
fn zeros_round_down_or_up() {
    let both = |n, s| (n_zeros(n, s, Rounding::Floor), n_zeros(n, s, Rounding::Ceil));
    assert_eq!(both(30, 0.1), (3, 3));
    assert_eq!(both(8, 0.8), (6, 7));
    assert_eq!(both(235_200, 0.98), (230_496, 230_496));
    assert_eq!(both(30_000, 0.98 * 0.9), (26_460, 26_460));
    // 0.29 * 100 is 28.999999999999996 as a double.
    assert_eq!(both(100, 0.29), (28, 29));
    assert_eq!(both(0, 0.5), (0, 0));
    let ceil = BudgetOptions {
        rounding: Rounding::Ceil,
        ..options(Distribution::Uniform, 0.8)
    };
    assert_eq!(budgets(&layers(&[&[2, 4]]), &ceil).unwrap()[0].nonzeros, 1);
}

#[test]
fn rejects_invalid_options() {
    let refused =
        |shapes: &[&[usize]], options: &BudgetOptions| budgets(&layers(shapes), options).unwrap_err().to_string();
    let two: [&[usize]; 2] = [&[4, 4], &[4, 2]];
    for s in [-0.1, 1.0, 1.5, f64::NAN] {
        let message = refused(&two, &options(Distribution::Uniform, s));
        assert!(
            message.contains("--sparsity") && message.contains(&s.to_string()),
            "{message}"
        );
        let message = refused(&two, &custom(options(Distribution::Uniform, 0.5), &[("var2", s)]));
        assert!(message.contains("`var2`"), "{message}");
    }
    let message = refused(
        &two,
        &custom(
            options(Distribution::Erk, 0.5),
            &[("var1", 0.5), ("var9", 0.5), ("x", 0.0)],
        ),
    );
    assert!(
        message.contains("`var9`, `x`") && message.contains("did you mean 'var1'"),
        "{message}"
    );
    for distribution in [Distribution::ErdosRenyi, Distribution::Erk] {
        let all_custom = custom(options(distribution, 0.5), &[("var1", 0.5), ("var2", 0.1)]);
        assert!(refused(&two, &all_custom).contains("no layer left to scale"));
        // No zeros at all and a factor that rounds above 1: every layer becomes dense, and nothing is left to divide by.
        assert!(
            refused(&[&[2, 9]], &options(distribution, 0.0))
                .contains("of 1 layers 0 have a custom sparsity and 1 became")
        );
        assert!(refused(&[&[0, 3], &[4, 4]], &options(distribution, 0.5)).contains("[0, 3]"));
    }
    assert!(refused(&[&[7], &[4, 4]], &options(Distribution::ErdosRenyi, 0.5)).contains("two dimensions"));
    assert!(budgets(&layers(&[&[7], &[4, 4]]), &options(Distribution::Erk, 0.5)).is_ok());
    let twice = [Layer::new("a", [2, 2]), Layer::new("a", [2, 2])];
    let error = budgets(&twice, &options(Distribution::Uniform, 0.5)).unwrap_err();
    assert_eq!(error, Error::DuplicateLayer { name: "a".into() });
    let power = BudgetOptions {
        power_scale: f64::INFINITY,
        ..options(Distribution::Erk, 0.5)
    };
    assert!(refused(&two, &power).contains("power_scale is inf"));
    for (name, want) in [
        ("random", Distribution::Uniform),
        ("er", Distribution::ErdosRenyi),
        ("erk", Distribution::Erk),
    ] {
        assert_eq!(name.parse::<Distribution>().unwrap(), want);
        assert_eq!(want.to_string().parse::<Distribution>().unwrap(), want);
    }
    let message = "erdos_reny".parse::<Distribution>().unwrap_err().to_string();
    assert!(message.contains("did you mean 'erdos_renyi'"), "{message}");
}
