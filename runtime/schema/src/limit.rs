//! Resource limits: `4096`, `1024:4096`, `unlimited`.

use std::fmt;
use std::str::FromStr;

use crate::Error;

/// A resource limit; `None` is unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// The limit that holds.
    pub soft: Option<u64>,
    /// The limit to which an unprivileged process can raise the soft one.
    pub hard: Option<u64>,
}

impl FromStr for Limit {
    type Err = Error;

    fn from_str(text: &str) -> Result<Limit, Error> {
        let bound = |text: &str| match text.trim() {
            "unlimited" => Some(None),
            // The kernel's RLIM_INFINITY.
            number => number.parse().ok().filter(|it| *it != u64::MAX).map(Some),
        };
        let (soft, hard) = text.split_once(':').unwrap_or((text, text));
        let (Some(soft), Some(hard)) = (bound(soft), bound(hard)) else {
            return Err(Error::NotALimit);
        };
        match hard.is_some_and(|hard| soft.is_none_or(|soft| soft > hard)) {
            true => Err(Error::SoftAboveHard),
            false => Ok(Limit { soft, hard }),
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |bound: Option<u64>| bound.map_or("unlimited".to_owned(), |it| it.to_string());
        match self.soft == self.hard {
            true => f.write_str(&text(self.soft)),
            false => write!(f, "{}:{}", text(self.soft), text(self.hard)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_and_their_texts() {
        for text in ["4096", "1024:4096", "1024:unlimited", "unlimited", "0"] {
            assert_eq!(text.parse::<Limit>().map(|limit| limit.to_string()), Ok(text.to_owned()));
        }
        for text in ["", "many", "1:2:3", "-1", "18446744073709551615"] {
            assert_eq!(text.parse::<Limit>(), Err(Error::NotALimit), "{text}");
        }
        for text in ["5:4", "unlimited:4"] {
            assert_eq!(text.parse::<Limit>(), Err(Error::SoftAboveHard), "{text}");
        }
    }
}
