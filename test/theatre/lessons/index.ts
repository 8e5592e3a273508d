/** All lessons, in the best order to take them. */
import { durableVote } from "./durable.ts";
import { firstElection, splitVote } from "./elections.ts";
import { figure8 } from "./figure8.ts";
import type { Lesson } from "./lesson.ts";
import { divided, reads } from "./partitions.ts";
import { repair } from "./repair.ts";
import { leaderDies, replication } from "./replication.ts";
import { lostDisk, members, slowFollower } from "./servers.ts";

export const lessons: readonly Lesson[] = [
  firstElection,
  splitVote,
  replication,
  leaderDies,
  repair,
  figure8,
  divided,
  reads,
  slowFollower,
  members,
  lostDisk,
  durableVote,
];
