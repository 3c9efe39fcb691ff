// equality_sim [--schedules N] [--seed S] [--models NAME,NAME] [--reach-min N]: schedules S .. S + N - 1, the models in
// turn. Run at the repository's root. Ends with 1 at the first difference, or if something was reached too rarely.
// equality_sim --endurance N [--models NAME]: N steps with drafts, and how often these are accepted over time.
// equality_sim --distribution N [--models NAME]: N samples of three tokens with 0, 1, 2 and 3 drafts each against
// the model's probabilities. Ends with 1 where chance would give such a chi-square once in a thousand times.
#include <fmt/format.h>

#include <cstdlib>
#include <string_view>

#include "cli/equality/distribution.h"
#include "cli/equality/endurance.h"
#include "cli/equality/equality.h"
#include "runner/test_model.h"

namespace weir::equality {
namespace {

int usage() {
  fmt::print(stderr,
             "usage: equality_sim [--schedules N] [--seed S] [--models NAME,NAME] [--reach-min N] | --distribution N | "
             "--endurance N\n");
  return 2;
}

int distribution(Model* model, int64_t samples) {
  bool fits = true;
  for (const int32_t drafts : {0, 1, 2, 3}) {
    const Fit fit = fit_of_three_tokens(model, drafts, samples);
    fmt::print(
        "{} drafts: {} samples, chi-square {:.1f} with {} degrees of freedom, p = {:.3f}; {} of {} drafts accepted\n",
        drafts, fit.samples, fit.chi_square, fit.degrees, fit.p_value(), fit.accepted, fit.drafted);
    fits &= fit.p_value() > 1e-3;
  }
  return fits ? 0 : 1;
}

int endurance(Model* model, int64_t steps) {
  const Endurance out = run_endurance(model, steps);
  const auto print = [](const char* what, const auto& tenths) {
    fmt::print("accepted, tenths of {}:", what);
    for (const Tenth& tenth : tenths) fmt::print(" {:.4f}", tenth.rate());
    fmt::print("\n");
  };
  print("the steps", out.by_age);
  print("a sequence", out.by_position);
  // The standard error of a tenth of a million is under a thousandth.
  return out.by_age.back().rate() > out.by_age.front().rate() - 0.01 ? 0 : 1;
}

int run(int argc, char** argv) {
  int64_t schedules = 100;
  uint64_t seed = 1;
  int64_t reach_min = 0;
  int64_t samples = 0;
  int64_t steps = 0;
  std::string models = "moe-odd,next,moe-fp8,moe-real,moe-mxfp4,dense-tied";
  if (argc % 2 == 0) return usage();
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string_view flag = argv[i];
    if (flag == "--models") {
      models = argv[i + 1];
      continue;
    }
    char* end = nullptr;
    const unsigned long long value = std::strtoull(argv[i + 1], &end, 10);
    if (*end != '\0') return usage();
    if (flag == "--schedules") {
      schedules = static_cast<int64_t>(value);
    } else if (flag == "--seed") {
      seed = value;
    } else if (flag == "--reach-min") {
      reach_min = static_cast<int64_t>(value);
    } else if (flag == "--endurance") {
      steps = static_cast<int64_t>(value);
    } else if (flag == "--distribution") {
      samples = static_cast<int64_t>(value);
    } else {
      return usage();
    }
  }
  std::vector<std::unique_ptr<Model>> loaded;
  std::vector<std::unique_ptr<Judge>> judges;
  for (size_t begin = 0; begin < models.size();) {
    const size_t end = std::min(models.find(',', begin), models.size());
    const std::string name = models.substr(begin, end - begin);
    auto model = load_golden_model(name, 4096);
    if (!model.ok()) {
      fmt::print(stderr, "{}: {}\n", name, model.error().text());
      return 2;
    }
    loaded.push_back(std::move(*model));
    judges.push_back(std::make_unique<Judge>(loaded.back().get()));
    begin = end + 1;
  }
  if (steps > 0) return endurance(loaded.front().get(), steps);
  if (samples > 0) return distribution(loaded.front().get(), samples);
  Reach reach{};
  for (int64_t i = 0; i < schedules; ++i) {
    const uint64_t one = seed + static_cast<uint64_t>(i);
    const auto problems = judges[one % judges.size()]->run(one, &reach);
    if (problems.empty()) continue;
    for (const auto& problem : problems) fmt::print("{}\n", problem);
    fmt::print("seed {} fails: equality_sim --schedules 1 --seed {} --models {}\n", one, one, models);
    return 1;
  }
  int64_t least = INT64_MAX;
  for (size_t i = 0; i < reach.size(); ++i) {
    fmt::print("{:>10}  {}\n", reach[i], kReachedNames[i]);
    least = std::min(least, reach[i]);
  }
  fmt::print("{} schedules from seed {}: every request has the bits that it has alone\n", schedules, seed);
  if (least >= reach_min) return 0;
  fmt::print("something was reached only {} times, less than {}\n", least, reach_min);
  return 1;
}

}  // namespace
}  // namespace weir::equality

int main(int argc, char** argv) {
  return weir::equality::run(argc, argv);
}
