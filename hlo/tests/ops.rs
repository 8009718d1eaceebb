//! Runs every case of the conformance table on the evaluator.
#![allow(clippy::unwrap_used, missing_docs)]

use hlo_cases as cases;

#[test]
fn evaluator_matches_every_case() {
    let failures: Vec<String> = cases::all()
        .iter()
        .filter_map(|case| {
            let got = case.computation().and_then(|c| c.evaluate(&case.inputs));
            match got {
                Ok(got) => case.check(&got).err(),
                Err(error) => Some(format!("{}: {error}", case.title())),
            }
        })
        .collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn check_reports_wrong_values() {
    let case = &cases::all()[0];
    let mut got = case.computation().unwrap().evaluate(&case.inputs).unwrap();
    let mut values = got[0].to_vec::<f32>().unwrap();
    values[1] += 1e-3;
    got[0] = hlo::Literal::new(&[4], &values);
    let message = case.check(&got).unwrap_err();
    assert!(message.contains("element 1 of output 0"), "{message}");
    assert!(case.check(&[]).unwrap_err().contains("yields []"));
}
