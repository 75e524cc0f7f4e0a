//! The vocabulary of the demonstration set.

pub(super) const NAMES: &[&str] = &[
    "Anna", "Tom", "Maria", "Lukas", "Priya", "Omar", "Grace", "Ivan", "Chloe", "Diego", "Hana",
    "Peter", "Fatima", "James", "Sofia", "Kenji", "Laura", "Ahmed", "Emily", "Victor", "Nina",
    "Paul", "Amara", "Oscar", "Ruth", "Felix", "Yuki", "Martin", "Elena", "Sam", "Leila", "George",
    "Clara", "Raj", "Julia", "Simon", "Zoe", "Daniel", "Mei", "Henry", "Alice", "Carlos", "Ingrid",
    "Ben", "Naomi", "Louis", "Tara", "Andre", "Helen", "Marco", "Rosa", "Adam", "Layla", "Kevin",
    "Olga", "David", "Irene", "Nora", "Jack", "Bella", "Hugo", "Maya", "Frank", "Lucy", "Ali",
    "Sarah", "Erik", "Paula", "Noah", "Greta", "Leo", "Vera", "Max", "Aisha", "Robert", "Eva",
    "Karim", "Jane", "Otto", "Linda",
];

pub(super) const GOODS: &[&str] = &[
    "blue mugs",
    "desk lamps",
    "oak chairs",
    "candles",
    "notebooks",
    "green towels",
    "bread rolls",
    "apple pies",
    "bike tires",
    "winter gloves",
    "tea cups",
    "wool socks",
    "phone cases",
    "garden pots",
    "red roses",
    "photo frames",
    "coffee beans",
    "pizza boxes",
    "chess sets",
    "paper bags",
    "wine glasses",
    "lemon cakes",
    "soup bowls",
    "white shirts",
    "rain coats",
    "dog beds",
    "light bulbs",
    "wall clocks",
    "silk scarves",
    "rubber boots",
    "bath mats",
    "honey jars",
    "yoga mats",
    "gift cards",
    "silver spoons",
    "tomato plants",
    "baby blankets",
    "leather belts",
    "beach towels",
    "door mats",
];

pub(super) const BOOKABLE: &[&str] = &[
    "table",
    "double room",
    "tennis court",
    "cooking class",
    "boat trip",
    "meeting room",
    "yoga class",
    "massage",
    "city tour",
    "wine tasting",
    "piano lesson",
    "karaoke room",
    "riding lesson",
    "sauna",
    "museum tour",
    "dance class",
    "family room",
    "bowling lane",
    "painting class",
    "surf lesson",
    "garden tour",
    "private cinema",
    "climbing course",
    "brunch table",
];

pub(super) const MATTERS: &[&str] = &[
    "refund",
    "late delivery",
    "broken heater",
    "invoice",
    "gift voucher",
    "lost parcel",
    "job offer",
    "new contract",
    "password reset",
    "damaged box",
    "wrong size",
    "parking permit",
    "noise complaint",
    "membership",
    "delivery address",
    "price list",
    "leaking roof",
    "missing keys",
    "repair quote",
    "warranty",
    "school visit",
    "wedding menu",
    "catering offer",
    "double charge",
];

pub(super) const DAYS: &[&str] =
    &["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

/// How a count is written; the number is what the answer holds.
pub(super) const COUNTS: &[(&str, u32)] = &[
    ("two", 2),
    ("three", 3),
    ("four", 4),
    ("five", 5),
    ("six", 6),
    ("seven", 7),
    ("eight", 8),
    ("nine", 9),
    ("ten", 10),
    ("twelve", 12),
    ("2", 2),
    ("3", 3),
    ("4", 4),
    ("5", 5),
    ("6", 6),
    ("7", 7),
    ("8", 8),
    ("9", 9),
    ("10", 10),
    ("12", 12),
    ("15", 15),
    ("20", 20),
    ("a dozen", 12),
    ("a couple of", 2),
];

/// Wordings of the three kinds. `{n}` count, `{i}` item, `{d}` day with its preposition (or nothing).
pub(super) const ORDERS: &[&str] = &[
    "I would like to order {n} {i}{d}.",
    "please send me {n} {i}{d}.",
    "can I get {n} {i}{d}?",
    "I need {n} {i}{d}.",
    "we want to buy {n} {i}{d}.",
    "could you deliver {n} {i}{d}?",
    "put me down for {n} {i}{d} please.",
    "{n} {i}{d} please.",
    "I'll take {n} {i}{d}.",
    "do you have {n} {i}{d}? If yes, ship them.",
];

/// See [`ORDERS`].
pub(super) const BOOKINGS: &[&str] = &[
    "I'd like to book a {i} for {n}{d}.",
    "can we reserve a {i}{d}, there are {n} of us?",
    "is there a {i} free{d} for {n} people?",
    "please book a {i} for {n} guests{d}.",
    "we are {n} people and want a {i}{d}.",
    "could you hold a {i}{d} for {n}?",
    "a {i} for {n}{d} please.",
    "I want to reserve a {i} for {n} persons{d}.",
];

/// See [`ORDERS`].
pub(super) const CONTACTS: &[&str] = &[
    "please call me back{d} about the {i}.",
    "I have a question about the {i}, can someone ring me{d}?",
    "who can I talk to about my {i}? Call me{d}.",
    "could the manager phone me{d}? It's about the {i}.",
    "I'd like to speak to someone{d} about the {i}.",
    "get in touch with me{d} please, it's the {i}.",
    "still waiting for a call about the {i}, please ring{d}.",
];

pub(super) const GREETINGS: &[&str] = &[
    "Hi, ",
    "Hello, ",
    "Hey, ",
    "Hi there, ",
    "Good morning, ",
    "Dear team, ",
    "hey guys, ",
    "Good evening! ",
];

pub(super) const INTRODUCTIONS: &[&str] = &[
    "this is {name}. ",
    "{name} here. ",
    "my name is {name}. ",
    "I'm {name}. ",
    "it's {name} again. ",
];

pub(super) const SIGNATURES: &[&str] = &[
    " Thanks, {name}",
    " - {name}",
    " Best, {name}",
    " Cheers, {name}",
    " Regards, {name}",
    " {name}",
    " thx {name}",
];

pub(super) const ASIDES: &[&str] = &[
    " What lovely weather.",
    " Your shop is great.",
    " My sister told me about you.",
    " Sorry for the short notice.",
    " Last time was perfect.",
    " No onions in the house, haha.",
    " I am in a hurry.",
    " Parking was hard to find.",
    " My phone is nearly dead.",
    " We moved here last year.",
    " Greetings from my mum.",
    " The kids can't wait.",
];

pub(super) const ENDINGS: &[&str] = &[" 🙂", " 👍", " 🙏", " 🎉", " !!", " :)", " ..."];
