//! Checks that every operator is tested: fails if one lacks a value, a gradient or a reason against it, a wrong call or
//! a snapshot.
#![allow(clippy::unwrap_used, missing_docs)]

#[allow(dead_code)]
mod wrong;

use hlo::{Computation, Node, Op, text};
use hlo_cases::{self as cases, Case, Gradient};
use std::collections::BTreeSet;

fn without(covered: &BTreeSet<&str>) -> Vec<&'static str> {
    Op::all_names()
        .into_iter()
        .filter(|name| !covered.contains(name))
        .collect()
}

fn operators(cases: &[Case]) -> BTreeSet<&str> {
    cases.iter().map(|c| c.op).collect()
}

#[test]
fn every_operator_has_a_case() {
    let cases = cases::all();
    assert_eq!(without(&operators(&cases)), Vec::<&str>::new());
    let known: BTreeSet<&str> = Op::all_names().into_iter().collect();
    assert!(operators(&cases).is_subset(&known), "a case is filed under no operator");
}

#[test]
fn titles_are_unique() {
    let cases = cases::all();
    let titles: BTreeSet<String> = cases.iter().map(Case::title).collect();
    assert_eq!(titles.len(), cases.len());
}

fn contains(computation: &Computation, op: &str) -> bool {
    let within = |node: &Node| node.op.name() == op || node.op.called().iter().any(|c| contains(c, op));
    computation.nodes.iter().any(within)
}

/// A case must contain the operator that it is filed under, so that no operator passes on another's case.
#[test]
fn every_case_contains_its_operator() {
    for case in cases::all() {
        assert!(contains(&case.computation().unwrap(), case.op), "{}", case.title());
    }
}

#[test]
fn every_operator_has_a_gradient_or_a_reason_for_none() {
    let cases: Vec<Case> = cases::all()
        .into_iter()
        .filter(|c| c.gradient != Gradient::Unchecked)
        .collect();
    assert_eq!(without(&operators(&cases)), Vec::<&str>::new());
}

#[test]
fn every_operator_that_can_fail_has_a_wrong_call() {
    let calls = wrong::calls();
    let covered: BTreeSet<&str> = calls.iter().map(|w| w.op).collect();
    assert_eq!(without(&covered), wrong::NEVER_WRONG);
}

#[test]
fn every_operator_has_a_snapshot() {
    let golden = include_str!("../golden/ops.txt");
    for case in cases::all() {
        assert!(
            golden.contains(&text::dump(&case.computation().unwrap())),
            "{}",
            case.title()
        );
    }
    for name in Op::all_names() {
        assert!(golden.contains(&format!(" {name}(")), "{name}");
    }
}
