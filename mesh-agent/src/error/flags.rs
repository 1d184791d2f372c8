//! Response flags: why a request ended as it did, in Envoy's abbreviations.

use serde::{Serialize, Serializer};
use std::fmt;

macro_rules! flags {
    ($($name:ident = $doc:literal;)*) => {
        /// One of Envoy's response flags that this data path sets (SEMANTICS §6).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
        pub enum Flag {
            $(#[doc = $doc] $name,)*
        }

        impl Flag {
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }

            pub const fn doc(self) -> &'static str {
                match self {
                    $(Self::$name => $doc,)*
                }
            }
        }
    };
}

// Envoy writes flags in the order in which they are set; this is that order for the combinations that happen:
// `DI,UT`, `URX,UF`, `UO,UR`.
flags! {
    DI = "a delay was injected";
    FI = "an abort was injected";
    RL = "the local rate limit refused the request";
    URX = "the retry limit was reached; the last attempt's answer or failure was passed on";
    UO = "a circuit breaker, or a limit of the agent itself, refused the request or a retry";
    NR = "no route matches";
    NC = "the route's destination does not exist";
    UH = "no healthy endpoint";
    UF = "no connection to the endpoint";
    UC = "the endpoint closed the connection before its response";
    UR = "the endpoint reset the stream";
    LR = "the agent reset the stream";
    UPE = "the endpoint broke the protocol";
    UT = "the request's or an attempt's timeout";
    SI = "nothing moved on the stream for too long";
    DPE = "the client broke the protocol";
    DC = "the client left";
}

/// A set of flags. Shown as Envoy shows it: joined with `,`, and `-` for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Flags(u32);

impl Flags {
    pub const NONE: Self = Self(0);

    pub const fn has(self, flag: Flag) -> bool {
        self.0 & (1 << flag as u32) != 0
    }

    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub const fn insert(&mut self, flag: Flag) {
        self.0 |= 1 << flag as u32;
    }

    pub fn iter(self) -> impl Iterator<Item = Flag> {
        Flag::ALL.iter().copied().filter(move |flag| self.has(*flag))
    }
}

impl From<Flag> for Flags {
    fn from(flag: Flag) -> Self {
        Self(1 << flag as u32)
    }
}

impl std::ops::BitOr for Flags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl std::ops::BitOrAssign for Flags {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("-");
        }
        for (at, flag) in self.iter().enumerate() {
            f.write_str(if at == 0 { "" } else { "," })?;
            f.write_str(flag.as_str())?;
        }
        Ok(())
    }
}

impl Serialize for Flags {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_are_joined_in_envoys_order() {
        assert_eq!(Flags::NONE.to_string(), "-");
        assert_eq!(Flags::from(Flag::UT).to_string(), "UT");
        assert_eq!((Flags::from(Flag::UF) | Flag::URX.into()).to_string(), "URX,UF");
        let mut flags = Flags::from(Flag::UT);
        flags.insert(Flag::DI);
        flags.insert(Flag::DI);
        assert_eq!(flags.iter().collect::<Vec<_>>(), [Flag::DI, Flag::UT]);
        assert!(Flag::ALL.len() <= 32, "they are bits of a u32");
    }
}
