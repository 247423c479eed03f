//! Enumerations of values that are numbers on the wire.

/// Declares one: each value with its number, and of these the list of all and the way back from a number.
///
/// ```
/// mqtt::numbered! {
///     /// How much there is.
///     #[derive(Clone, Copy, Debug, PartialEq, Eq)]
///     pub enum Amount {
///         /// Little.
///         Little = 1,
///         /// Much.
///         Much = 0x81,
///     }
/// }
/// assert_eq!(Amount::ALL.map(Amount::as_u8), [1, 0x81]);
/// assert_eq!((Amount::from_u8(0x81), Amount::from_u8(2)), (Some(Amount::Much), None));
/// ```
#[macro_export]
macro_rules! numbered {
    (
        $(#[$meta:meta])*
        $visible:vis enum $name:ident {
            $($(#[$value_meta:meta])* $value:ident = $number:literal,)*
        }
    ) => {
        $(#[$meta])*
        #[repr(u8)]
        $visible enum $name {
            $($(#[$value_meta])* $value = $number,)*
        }

        impl $name {
            /// All of them, in the order of their numbers.
            $visible const ALL: [Self; [$($number),*].len()] = [$(Self::$value),*];

            /// The number on the wire.
            $visible const fn as_u8(self) -> u8 {
                self as u8
            }

            /// The one of this number.
            $visible const fn from_u8(number: u8) -> Option<Self> {
                match number {
                    $($number => Some(Self::$value),)*
                    _ => None,
                }
            }
        }
    };
}
