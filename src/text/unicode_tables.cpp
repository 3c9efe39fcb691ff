// Made by tools/oracles/tokenizer_unicode.py; do not edit.
// Oracle: tokenizers 0.23.3. Linked: PCRE2 10.42 2022-12-11, Unicode 14.0.0; utf8proc, Unicode 15.0.0.
#include "text/unicode_tables.h"

namespace weir {
namespace {

constexpr CategoryChange kCategoryChanges[] = {
    {0x00897, 0x00897, GeneralCategory::kMn}, {0x00CF3, 0x00CF3, GeneralCategory::kMc},
    {0x00ECE, 0x00ECE, GeneralCategory::kMn}, {0x0180E, 0x0180E, GeneralCategory::kCf},
    {0x01B4E, 0x01B4F, GeneralCategory::kPo}, {0x01B7F, 0x01B7F, GeneralCategory::kPo},
    {0x01C89, 0x01C89, GeneralCategory::kLu}, {0x01C8A, 0x01C8A, GeneralCategory::kLl},
    {0x02427, 0x02429, GeneralCategory::kSo}, {0x02FFC, 0x02FFF, GeneralCategory::kSo},
    {0x031E4, 0x031E5, GeneralCategory::kSo}, {0x031EF, 0x031EF, GeneralCategory::kSo},
    {0x0A7CB, 0x0A7CC, GeneralCategory::kLu}, {0x0A7CD, 0x0A7CD, GeneralCategory::kLl},
    {0x0A7DA, 0x0A7DA, GeneralCategory::kLu}, {0x0A7DB, 0x0A7DB, GeneralCategory::kLl},
    {0x0A7DC, 0x0A7DC, GeneralCategory::kLu}, {0x105C0, 0x105F3, GeneralCategory::kLo},
    {0x10D40, 0x10D49, GeneralCategory::kNd}, {0x10D4A, 0x10D4D, GeneralCategory::kLo},
    {0x10D4E, 0x10D4E, GeneralCategory::kLm}, {0x10D4F, 0x10D4F, GeneralCategory::kLo},
    {0x10D50, 0x10D65, GeneralCategory::kLu}, {0x10D69, 0x10D6D, GeneralCategory::kMn},
    {0x10D6E, 0x10D6E, GeneralCategory::kPd}, {0x10D6F, 0x10D6F, GeneralCategory::kLm},
    {0x10D70, 0x10D85, GeneralCategory::kLl}, {0x10D8E, 0x10D8F, GeneralCategory::kSm},
    {0x10EC2, 0x10EC4, GeneralCategory::kLo}, {0x10EFC, 0x10EFF, GeneralCategory::kMn},
    {0x1123F, 0x11240, GeneralCategory::kLo}, {0x11241, 0x11241, GeneralCategory::kMn},
    {0x11380, 0x11389, GeneralCategory::kLo}, {0x1138B, 0x1138B, GeneralCategory::kLo},
    {0x1138E, 0x1138E, GeneralCategory::kLo}, {0x11390, 0x113B5, GeneralCategory::kLo},
    {0x113B7, 0x113B7, GeneralCategory::kLo}, {0x113B8, 0x113BA, GeneralCategory::kMc},
    {0x113BB, 0x113C0, GeneralCategory::kMn}, {0x113C2, 0x113C2, GeneralCategory::kMc},
    {0x113C5, 0x113C5, GeneralCategory::kMc}, {0x113C7, 0x113CA, GeneralCategory::kMc},
    {0x113CC, 0x113CD, GeneralCategory::kMc}, {0x113CE, 0x113CE, GeneralCategory::kMn},
    {0x113CF, 0x113CF, GeneralCategory::kMc}, {0x113D0, 0x113D0, GeneralCategory::kMn},
    {0x113D1, 0x113D1, GeneralCategory::kLo}, {0x113D2, 0x113D2, GeneralCategory::kMn},
    {0x113D3, 0x113D3, GeneralCategory::kLo}, {0x113D4, 0x113D5, GeneralCategory::kPo},
    {0x113D7, 0x113D8, GeneralCategory::kPo}, {0x113E1, 0x113E2, GeneralCategory::kMn},
    {0x116D0, 0x116E3, GeneralCategory::kNd}, {0x1171E, 0x1171E, GeneralCategory::kMc},
    {0x11B00, 0x11B09, GeneralCategory::kPo}, {0x11BC0, 0x11BE0, GeneralCategory::kLo},
    {0x11BE1, 0x11BE1, GeneralCategory::kPo}, {0x11BF0, 0x11BF9, GeneralCategory::kNd},
    {0x11F00, 0x11F01, GeneralCategory::kMn}, {0x11F02, 0x11F02, GeneralCategory::kLo},
    {0x11F03, 0x11F03, GeneralCategory::kMc}, {0x11F04, 0x11F10, GeneralCategory::kLo},
    {0x11F12, 0x11F33, GeneralCategory::kLo}, {0x11F34, 0x11F35, GeneralCategory::kMc},
    {0x11F36, 0x11F3A, GeneralCategory::kMn}, {0x11F3E, 0x11F3F, GeneralCategory::kMc},
    {0x11F40, 0x11F40, GeneralCategory::kMn}, {0x11F41, 0x11F41, GeneralCategory::kMc},
    {0x11F42, 0x11F42, GeneralCategory::kMn}, {0x11F43, 0x11F4F, GeneralCategory::kPo},
    {0x11F50, 0x11F59, GeneralCategory::kNd}, {0x11F5A, 0x11F5A, GeneralCategory::kMn},
    {0x1342F, 0x1342F, GeneralCategory::kLo}, {0x13439, 0x1343F, GeneralCategory::kCf},
    {0x13440, 0x13440, GeneralCategory::kMn}, {0x13441, 0x13446, GeneralCategory::kLo},
    {0x13447, 0x13455, GeneralCategory::kMn}, {0x13460, 0x143FA, GeneralCategory::kLo},
    {0x16100, 0x1611D, GeneralCategory::kLo}, {0x1611E, 0x16129, GeneralCategory::kMn},
    {0x1612A, 0x1612C, GeneralCategory::kMc}, {0x1612D, 0x1612F, GeneralCategory::kMn},
    {0x16130, 0x16139, GeneralCategory::kNd}, {0x16D40, 0x16D42, GeneralCategory::kLm},
    {0x16D43, 0x16D6A, GeneralCategory::kLo}, {0x16D6B, 0x16D6C, GeneralCategory::kLm},
    {0x16D6D, 0x16D6F, GeneralCategory::kPo}, {0x16D70, 0x16D79, GeneralCategory::kNd},
    {0x18CFF, 0x18CFF, GeneralCategory::kLo}, {0x1B132, 0x1B132, GeneralCategory::kLo},
    {0x1B155, 0x1B155, GeneralCategory::kLo}, {0x1CC00, 0x1CCEF, GeneralCategory::kSo},
    {0x1CCF0, 0x1CCF9, GeneralCategory::kNd}, {0x1CD00, 0x1CEB3, GeneralCategory::kSo},
    {0x1D2C0, 0x1D2D3, GeneralCategory::kNo}, {0x1DF25, 0x1DF2A, GeneralCategory::kLl},
    {0x1E030, 0x1E06D, GeneralCategory::kLm}, {0x1E08F, 0x1E08F, GeneralCategory::kMn},
    {0x1E4D0, 0x1E4EA, GeneralCategory::kLo}, {0x1E4EB, 0x1E4EB, GeneralCategory::kLm},
    {0x1E4EC, 0x1E4EF, GeneralCategory::kMn}, {0x1E4F0, 0x1E4F9, GeneralCategory::kNd},
    {0x1E5D0, 0x1E5ED, GeneralCategory::kLo}, {0x1E5EE, 0x1E5EF, GeneralCategory::kMn},
    {0x1E5F0, 0x1E5F0, GeneralCategory::kLo}, {0x1E5F1, 0x1E5FA, GeneralCategory::kNd},
    {0x1E5FF, 0x1E5FF, GeneralCategory::kPo}, {0x1F6DC, 0x1F6DC, GeneralCategory::kSo},
    {0x1F774, 0x1F776, GeneralCategory::kSo}, {0x1F77B, 0x1F77F, GeneralCategory::kSo},
    {0x1F7D9, 0x1F7D9, GeneralCategory::kSo}, {0x1F8B2, 0x1F8BB, GeneralCategory::kSo},
    {0x1F8C0, 0x1F8C1, GeneralCategory::kSo}, {0x1FA75, 0x1FA77, GeneralCategory::kSo},
    {0x1FA87, 0x1FA89, GeneralCategory::kSo}, {0x1FA8F, 0x1FA8F, GeneralCategory::kSo},
    {0x1FAAD, 0x1FAAF, GeneralCategory::kSo}, {0x1FABB, 0x1FABF, GeneralCategory::kSo},
    {0x1FAC6, 0x1FAC6, GeneralCategory::kSo}, {0x1FACE, 0x1FACF, GeneralCategory::kSo},
    {0x1FADA, 0x1FADC, GeneralCategory::kSo}, {0x1FADF, 0x1FADF, GeneralCategory::kSo},
    {0x1FAE8, 0x1FAE9, GeneralCategory::kSo}, {0x1FAF7, 0x1FAF8, GeneralCategory::kSo},
    {0x1FBCB, 0x1FBEF, GeneralCategory::kSo}, {0x2B739, 0x2B739, GeneralCategory::kLo},
    {0x2EBF0, 0x2EE5D, GeneralCategory::kLo}, {0x31350, 0x323AF, GeneralCategory::kLo},
};

constexpr CodePointRange kNfcBarriers[] = {
    {0x007FD, 0x007FD}, {0x00898, 0x0089F}, {0x008CA, 0x008D3}, {0x009FE, 0x009FE}, {0x00C3C, 0x00C3C},
    {0x00D3B, 0x00D3C}, {0x00EBA, 0x00EBA}, {0x011A7, 0x011A7}, {0x01715, 0x01715}, {0x01ABF, 0x01ACE},
    {0x01DF6, 0x01DFA}, {0x0A82C, 0x0A82C}, {0x10D24, 0x10D27}, {0x10EAB, 0x10EAC}, {0x10EFD, 0x10EFF},
    {0x10F46, 0x10F50}, {0x10F82, 0x10F85}, {0x11070, 0x11070}, {0x1133B, 0x1133B}, {0x1145E, 0x1145E},
    {0x11839, 0x1183A}, {0x11930, 0x11930}, {0x11935, 0x11935}, {0x11938, 0x11938}, {0x1193D, 0x1193E},
    {0x11943, 0x11943}, {0x119E0, 0x119E0}, {0x11A34, 0x11A34}, {0x11A47, 0x11A47}, {0x11A99, 0x11A99},
    {0x11D42, 0x11D42}, {0x11D44, 0x11D45}, {0x11D97, 0x11D97}, {0x11F41, 0x11F42}, {0x16FF0, 0x16FF1},
    {0x1E08F, 0x1E08F}, {0x1E130, 0x1E136}, {0x1E2AE, 0x1E2AE}, {0x1E2EC, 0x1E2EF}, {0x1E4EC, 0x1E4EF},
};

}  // namespace

std::span<const CategoryChange> category_changes() {
  return kCategoryChanges;
}
std::span<const CodePointRange> nfc_barriers() {
  return kNfcBarriers;
}

}  // namespace weir
