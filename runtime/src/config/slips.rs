//! Listeners that the attribute does not declare: intended, or misspelled.

use unbroken_schema::nearest;

use super::{Configuration, keys};

/// A listener that only a later layer declares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Foreign<'a> {
    /// The variable, the place in the file or the option.
    pub(crate) source: &'a str,
    /// The listener of the attribute that was probably meant.
    pub(crate) meant: Option<&'a str>,
}

impl Foreign<'_> {
    /// The message for a listener on which the program does not accept.
    pub(crate) fn unclaimed(&self, name: &str) -> String {
        let source = self.source;
        match self.meant {
            Some(meant) => format!(
                "the program does not accept on listener `{name}`, which only {source} declares: did \
                 you mean `{meant}`?"
            ),
            None => format!(
                "the program does not accept on listener `{name}`, which only {source} declares: take \
                 it in the program, or remove it there"
            ),
        }
    }
}

impl Configuration {
    /// A listener that the attribute does not declare; `None` for one that it does.
    pub(crate) fn foreign(&self, name: &str) -> Option<Foreign<'_>> {
        if self.of_attribute.contains_key(name) {
            return None;
        }
        let source = self.sources.get(&keys::join(&["listen", name]))?;
        // A listener that a later layer moved is spelled correctly there.
        let own = self.of_attribute.iter().filter(|(_, moved)| !**moved);
        let own = own.map(|(own, _)| own.as_str()).filter(|own| is_slip(name, own));
        Some(Foreign { source, meant: nearest(name, own) })
    }
}

/// Whether one name is unlikely to be a sibling of the other, as `https` is of `http` and `api2` of `api1`.
fn is_slip(name: &str, other: &str) -> bool {
    let stem = |name: &'_ str| name.trim_end_matches(|c: char| c.is_ascii_digit()).to_owned();
    other.len() > 3
        && !name.starts_with(other)
        && !other.starts_with(name)
        && stem(name) != stem(other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::place::Place;
    use crate::spec::Literal;

    #[test]
    fn a_slip_is_told_from_a_sibling() {
        for (slip, meant) in
            [("htp", "http"), ("htpp", "http"), ("hhtp", "http"), ("admni", "admin")]
        {
            let meant_by = |place: Place| {
                let loaded = place.load();
                loaded.foreign(slip).unwrap().meant.map(str::to_owned)
            };
            let place = || {
                let own = &[
                    ("listen.http", Literal::Str("127.0.0.1:80")),
                    ("listen.admin", Literal::Str("127.0.0.1:81")),
                ];
                Place::new(own)
                    .var(&format!("DAEMON_LISTEN_{}", slip.to_uppercase()), "127.0.0.1:1")
            };
            assert_eq!(meant_by(place()).as_deref(), Some(meant), "{slip}");
            let moved = place().set(&format!("listen.{meant}=127.0.0.1:2"));
            assert_eq!(meant_by(moved), None, "{slip}");
        }
        for (one, other) in [
            ("https", "http"),
            ("http2", "http"),
            ("api1", "api2"),
            ("app", "api"),
            ("http", "https"),
        ] {
            assert!(!is_slip(one, other), "{one} {other}");
        }
    }

    #[test]
    fn those_of_the_attribute_are_none_wherever_they_are() {
        let own = || Place::new(&[("listen.http", Literal::Str("127.0.0.1:80"))]);
        let moved = own().var("DAEMON_LISTEN_HTTP", "127.0.0.1:82").load();
        assert_eq!(moved.foreign("http"), None);
        let place = own().file("listen.metrics = '127.0.0.1:81'");
        let loaded = place.load();
        assert_eq!(loaded.foreign("http"), None);
        assert_eq!(loaded.foreign("nowhere"), None);
        let foreign = loaded.foreign("metrics").unwrap();
        assert_eq!(place.short(foreign.source), "FILE: listen.metrics");
        assert_eq!(foreign.meant, None);
    }
}
