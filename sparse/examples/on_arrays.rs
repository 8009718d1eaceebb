#![allow(missing_docs)]
use sparse::rng::stream;
use sparse::*;

fn main() -> Result<(), Error> {
    // The three kernels of LeNet-300-100: 95 % zeros in all, shared by the Erdős–Rényi-Kernel rule.
    let layers = [
        Layer::new("layer1", [784, 300]),
        Layer::new("layer2", [300, 100]),
        Layer::new("layer3", [100, 10]),
    ];
    let budgets = budgets(&layers, &BudgetOptions::new(Distribution::Erk, 0.95))?;
    let masks = initial_masks(&budgets, 1, MaskSeedCompat::Native)?;
    for budget in &budgets {
        println!(
            "{}: {} connections, {} zeros",
            budget.name, budget.nonzeros, budget.zeros
        );
    }

    // The state of the first layer; here weights and gradient are random numbers.
    let mut random = stream(1, "example", "layer1", 0);
    let mut draw = |n: usize| -> Vec<f32> { (0..n).map(|_| random.normal() as f32).collect() };
    let mut mask = masks[0].clone();
    let (mut weights, gradient) = (draw(mask.len()), draw(mask.len()));
    let mut slots = [vec![0.0; mask.len()]]; // momentum

    // RigL's schedule, and its update at step 300.
    let schedule = Schedule {
        begin_step: 0,
        end_step: 1000,
        frequency_steps: 100,
        drop_fraction: 0.3,
        anneal: Anneal::Cosine,
    };
    let layer = LayerState {
        weights: &mut weights,
        mask: &mut mask,
        slots: &mut slots,
    };
    let inputs = UpdateInputs {
        drop_fraction: schedule.drop_fraction_at(300),
        gradient: Some(&gradient),
        ..Default::default()
    };
    let report = mask_update(Method::find("rigl")?, layer, &inputs)?;
    println!(
        "replaced {} of {} connections; {} are new",
        report.n_prune, report.n_ones, report.n_grown
    );
    assert_eq!(mask.iter().filter(|&&active| active).count(), budgets[0].nonzeros);
    Ok(())
}
