//! Filters events by the directives of `RUST_LOG`, in the syntax of `tracing_subscriber::EnvFilter` without
//! spans and values.

use std::fmt;
use unbroken_core::sorted::sort_few;

use tracing::level_filters::LevelFilter;
use tracing::{Level, Metadata};

/// Levels by module, such as `info,hyper=warn,hello::db[{query}]=debug`.
#[derive(Debug)]
pub(super) struct Filter {
    /// The most specific directive first: the first one that matches decides.
    directives: Vec<Directive>,
}

#[derive(Debug)]
struct Directive {
    /// The prefix of the targets that it applies to.
    target: String,
    /// The field that an event must have.
    field: Option<String>,
    level: LevelFilter,
}

/// Why a text is not a filter.
#[derive(Debug)]
pub(super) struct InvalidFilter(&'static str);

impl fmt::Display for InvalidFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl Filter {
    /// A filter with one level for all targets.
    pub(super) fn all(level: LevelFilter) -> Filter {
        let directive = Directive { target: String::new(), field: None, level };
        Filter { directives: vec![directive] }
    }

    /// Parses directives. Of two for the same target and field, the later one wins.
    pub(super) fn parse(text: &str) -> Result<Filter, InvalidFilter> {
        let mut directives: Vec<Directive> = Vec::new();
        for part in text.split(',') {
            let new = Directive::parse(part)?;
            directives.retain(|old| old.target != new.target || old.field != new.field);
            directives.push(new);
        }
        sort_few(&mut directives, |a, b| {
            (a.target.len(), a.field.is_some()) > (b.target.len(), b.field.is_some())
        });
        Ok(Filter { directives })
    }

    /// Returns whether a span or event with this metadata is enabled.
    pub(super) fn enables(&self, metadata: &Metadata<'_>) -> bool {
        let has = |name: &String| metadata.fields().field(name.as_str()).is_some();
        let fits = |it: &&Directive| !metadata.is_event() || it.field.iter().all(has);
        self.decides(metadata.target(), *metadata.level(), fits)
    }

    /// Returns whether a record of the crate `log`, which has no fields, is enabled.
    pub(super) fn enables_plain(&self, target: &str, level: Level) -> bool {
        self.decides(target, level, |it| it.field.is_none())
    }

    fn decides(&self, target: &str, level: Level, fits: impl Fn(&&Directive) -> bool) -> bool {
        let about = self.directives.iter().filter(|it| target.starts_with(&it.target));
        about.filter(fits).map(|it| it.level).next().is_some_and(|most| level <= most)
    }

    /// The most verbose level that any directive enables.
    pub(super) fn most(&self) -> LevelFilter {
        self.directives.iter().map(|it| it.level).max().unwrap_or(LevelFilter::OFF)
    }
}

impl Directive {
    /// Parses `level`, `target`, `target=level` or `target[{field}]=level`.
    fn parse(text: &str) -> Result<Directive, InvalidFilter> {
        let (about, level) = match text.split_once('=') {
            None => match text.parse() {
                Ok(level) => ("", level),
                Err(_) => (text, LevelFilter::TRACE),
            },
            Some((about, level)) => {
                let level = level.parse().map_err(|_| {
                    InvalidFilter(
                        "a level is one of off, error, warn, info, debug, trace and 0 to 5",
                    )
                })?;
                (about, level)
            }
        };
        let (target, field) = match about.split_once("[{") {
            None => (about, None),
            Some((target, field)) => {
                let field = field
                    .strip_suffix("}]")
                    .ok_or(InvalidFilter("a field needs brackets, as in `app[{peer}]=debug`"))?;
                (target, Some(field.to_owned()))
            }
        };
        Ok(Directive { target: target.to_owned(), field, level })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_specific_directive_decides() {
        let shows = |text: &str, target: &str, level: Level| {
            Filter::parse(text).unwrap().enables_plain(target, level)
        };
        assert!(shows("info", "app", Level::INFO) && !shows("info", "app", Level::DEBUG));
        for text in
            ["warn,app::db=debug,app=off", "app=off,app::db=DEBUG,3,warn", "app=0,app::db=4,2"]
        {
            assert!(shows(text, "app::db::pool", Level::DEBUG), "{text}");
            assert!(!shows(text, "app", Level::ERROR), "{text}");
            assert!(
                shows(text, "hyper", Level::WARN) && !shows(text, "hyper", Level::INFO),
                "{text}"
            );
        }
        assert!(shows("app", "app::db", Level::TRACE) && !shows("app", "hyper", Level::ERROR));
        assert!(!shows("error,app[{peer}]=trace", "app", Level::INFO));
        assert_eq!(Filter::parse("warn,app=trace").unwrap().most(), LevelFilter::TRACE);
    }

    #[test]
    fn malformed_directives_are_refused() {
        for text in ["app=loud", "app=info=debug", "app[{peer=debug", "app[{peer}=debug"] {
            assert!(Filter::parse(text).is_err(), "{text}");
        }
    }
}
