#!/usr/bin/env bash
# Opens a pull request with the dvc.lock that lies here, unless it is that of HEAD.
#   usage: pull_request.sh    (GITHUB_REPOSITORY says where, GH_TOKEN lets in, GITHUB_OUTPUT gets its number and branch)
set -euo pipefail
if git diff --quiet HEAD -- dvc.lock; then
  echo "Nothing changed, so there is nothing to propose."
  exit
fi
branch=retrain/$(date --utc +%Y-%m-%d-%H%M)
url=${GITHUB_SERVER_URL:-https://github.com}/$GITHUB_REPOSITORY
git checkout --quiet -b "$branch"
git -c user.name=github-actions -c user.email='41898282+github-actions[bot]@users.noreply.github.com' \
  commit --quiet --message "Retrained" -- dvc.lock
git -c credential.helper= -c credential.helper='!gh auth git-credential' push --quiet "$url" "HEAD:refs/heads/$branch"
body="Models and data of this dvc.lock lie on the DVC remote. The gate says in a comment what it makes of them; once this is merged \
and somebody approved, what passes becomes champion."
opened=$(gh pr create --repo "$GITHUB_REPOSITORY" --base "${GITHUB_REF_NAME:-main}" --head "$branch" --title "Retrained models" --body "$body")
echo "$opened"
printf 'number=%s\nbranch=%s\n' "${opened##*/}" "$branch" >> "${GITHUB_OUTPUT:-/dev/null}"
