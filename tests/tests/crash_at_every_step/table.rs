//! The matrix as the tables in the book.

use std::fmt::Write as _;

use crate::cell::{Action, Answer, Cell, Scenario};
use crate::trial::Outcomes;

pub(crate) fn of(results: &[(Cell, Option<Outcomes>)]) -> String {
    let mut text = String::new();
    for scenario in Scenario::ALL {
        let mut steps: Vec<&str> = Vec::new();
        for point in unbroken::failpoint::points() {
            let here = |(cell, _): &&(Cell, _)| cell.scenario == scenario && cell.point == *point;
            if results.iter().any(|result| here(&result)) {
                steps.push(point.name);
            }
        }
        if steps.is_empty() {
            continue;
        }
        let _ = writeln!(text, "\n**{}**\n", scenario.title());
        let _ = writeln!(text, "| at | killed | stopped | delayed | fails |");
        let _ = writeln!(text, "|---|---|---|---|---|");
        for step in steps {
            let _ = write!(text, "| `{step}` |");
            for action in Action::ALL {
                let found = results.iter().find(|(cell, _)| {
                    cell.scenario == scenario && cell.point.name == step && cell.action == action
                });
                let shown = found.map_or("".to_owned(), |(_, outcomes)| show(outcomes.as_ref()));
                let _ = write!(text, " {shown} |");
            }
            text.push('\n');
        }
    }
    let done = results.iter().flat_map(|(_, outcomes)| outcomes);
    let (mut requests, mut lost, mut turned_away) = (0, 0, 0);
    for outcomes in done {
        requests += outcomes.requests;
        lost += outcomes.lost;
        turned_away += outcomes.turned_away;
    }
    let _ = writeln!(
        text,
        "\n{} cells, {requests} requests: {lost} lost with the process that had accepted them, \
         {turned_away} turned away by a daemon that had ended",
        results.len()
    );
    text
}

fn show(outcomes: Option<&Outcomes>) -> String {
    let Some(outcomes) = outcomes else { return "**wrong**".into() };
    let answer = match outcomes.answer {
        Some(Answer::Done) => "done",
        Some(Answer::Aborted) => "aborted",
        Some(Answer::Nothing) => "gone",
        Some(Answer::Ended) => "stopped",
        Some(Answer::Unasked) | None => "serves",
    };
    match outcomes.lost {
        0 => answer.to_owned(),
        lost => format!("{answer}, {lost} lost"),
    }
}
