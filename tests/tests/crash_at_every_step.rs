//! A crash at any step of the protocol loses nothing but the connections of the killed process.
//!
//! The matrix has every step, in supervisor and worker, with every fault, each in a daemon under load: `cell`
//! lists them with the expected result, `trial` runs one, `table` renders the results for the book.
//!
//! The tests run a part of the matrix with every step and every fault. All of it is run by
//! `CRASH_MATRIX=full cargo test -p unbroken-tests --test crash_at_every_step -- --nocapture`, which prints
//! the table of the book. `CRASH_MATRIX=worker.go` runs the cells with that text in their names.

#![allow(clippy::expect_used)]

#[path = "crash_at_every_step/cell.rs"]
mod cell;
#[path = "crash_at_every_step/table.rs"]
mod table;
#[path = "crash_at_every_step/trial.rs"]
mod trial;

use std::panic::AssertUnwindSafe;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use cell::{Action, Cell, cells};
use trial::Outcomes;

#[test]
fn crash_at_every_step_loses_nothing() {
    let wanted = std::env::var("CRASH_MATRIX").unwrap_or_default();
    let cells = match wanted.as_str() {
        "full" => cells(),
        "" => subset(),
        part => cells().into_iter().filter(|cell| cell.to_string().contains(part)).collect(),
    };
    assert!(!cells.is_empty(), "no cell is called {wanted}");
    let (next, results) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let threads = std::thread::available_parallelism().map_or(2, usize::from).min(4);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(cell) = cells.get(next.fetch_add(1, Ordering::SeqCst)) {
                    let result = std::panic::catch_unwind(AssertUnwindSafe(|| trial::run(*cell)));
                    results.lock().expect("not poisoned").push((*cell, result.ok()));
                }
            });
        }
    });
    let results: Vec<(Cell, Option<Outcomes>)> = results.into_inner().expect("not poisoned");
    println!("{}", table::of(&results));
    let failed: Vec<_> = results
        .iter()
        .filter(|(_, done)| done.is_none())
        .map(|(cell, _)| cell.to_string())
        .collect();
    assert!(failed.is_empty(), "{} of {}: {failed:#?}", failed.len(), results.len());
}

/// One cell for each step of each scenario, with the faults in turn.
fn subset() -> Vec<Cell> {
    let all = cells();
    let steps = all.chunk_by(|a, b| a.scenario == b.scenario && a.point == b.point);
    steps.enumerate().map(|(row, of_step)| of_step[row % of_step.len()]).collect()
}

/// The part of the matrix that always runs has every step and every fault.
#[test]
fn subset_covers_every_step_and_fault() {
    let (all, part) = (cells(), subset());
    for point in unbroken::failpoint::points() {
        assert!(all.iter().any(|cell| cell.point == *point), "{point:?}");
        assert!(part.iter().any(|cell| cell.point == *point), "{point:?}");
    }
    for action in Action::ALL {
        assert!(part.iter().filter(|cell| cell.action == action).count() > 5, "{action:?}");
    }
}

/// The table in the book has the rows of the matrix and the expected results.
#[test]
fn table_in_the_book_matches_the_matrix() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../book/src/crashes.md");
    let page = std::fs::read_to_string(page).expect("a chapter");
    let rows = |text: &str| -> Vec<String> {
        // The number of lost requests differs from run to run.
        let plain = |cell: &str| match cell.rsplit_once(", ") {
            Some((answer, lost)) if lost.ends_with(" lost") => answer.to_owned(),
            _ => cell.trim().to_owned(),
        };
        let lines = text.lines().filter(|line| line.starts_with("| `") || line.starts_with("**"));
        lines
            .map(|line| line.split('|').map(str::trim).map(plain).collect::<Vec<_>>().join("|"))
            .collect()
    };
    let expected: Vec<(Cell, Option<Outcomes>)> =
        cells().into_iter().map(|cell| (cell, Some(Outcomes::expected(cell.answer())))).collect();
    assert_eq!(rows(&page), rows(&table::of(&expected)));
}
